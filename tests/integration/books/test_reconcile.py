"""A cell's tables against a replay of its log: whatever a superuser changes behind its back is found, and named."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from cells.audit.checks.log_check import LogCheck
from cells.audit.reconcile.findings import Check, Order, Report
from cells.audit.reconcile.fold import Fold
from cells.audit.reconcile.one_pass import SQL, Reconciler
from cells.audit.reconcile.rebuild import rebuild
from cells.audit.verify.tree import Frontier
from cells.domain.audit.refusals import AuditUnderWay, LogDamaged
from cells.domain.commands import Transfer
from cells.domain.values import Money
from cells.encoding import codec
from cells.requests import Author
from server.shell.postgres.database import connect
from tests.integration.books.corruptions import CHANGED, MISSING, OUTSIDE, SURPLUS, Change
from tests.integration.database import CELL_ROLE, ask
from tests.integration.played import HERE, Played, Town, corrupt, rehash, serving, superuser
from tests.invariants import check_all
from tests.local_cells import available, request
from tests.replays import portions_of, shuffled

if TYPE_CHECKING:
    from uuid import UUID


async def reconciled(dsn: str, *, full: bool = True, key: bytes = b"") -> Report:
    connection = await connect(dsn, role=CELL_ROLE, application="test/reconcile")
    try:
        return await Reconciler(connection=connection, order=Order(full=full, replay_key=key)).run()
    finally:
        await connection.close()


def about(report: Report, check: Check) -> Sequence[str]:
    return [f"{each.row}: {each.expected} / {each.found}" for each in report.findings if each.check is check]


async def test_the_books_of_a_played_market_are_right(played: Played) -> None:
    """By the pass and by the invariants alike; then there is nothing more to replay."""
    await check_all(played.dsns)
    for cell, dsn in played.dsns.items():
        report = await reconciled(dsn)
        assert report.findings == []
        assert (report.cell, report.full, report.from_position) == (cell, True, 0)
        assert report.position == (await ask(dsn, "SELECT position FROM head"))[0][0] > 20
        again = await reconciled(dsn, full=False)
        assert (again.full, again.events_count, again.findings_count) == (False, 0, 0)


async def test_little_memory_and_small_pages_make_no_difference(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    """States that are written down and forgotten on the way are read again; a change is found all the same."""
    monkeypatch.setattr("cells.audit.reconcile.one_pass.PAGE", 7)
    monkeypatch.setattr("cells.audit.reconcile.one_pass.LAST_STRETCH", 10)
    monkeypatch.setattr("cells.audit.reconcile.replay_state.STATES_MAX", 5)
    dsn = played.dsns[HERE]
    report = await reconciled(dsn)
    assert (report.findings, report.full) == ([], True)
    [account_id] = await corrupt(dsn, [CHANGED[0].sql])
    assert [each.row for each in (await reconciled(dsn, full=False)).findings] == [f"accounts {account_id}"]


@pytest.mark.parametrize("changes", [CHANGED, MISSING, SURPLUS, OUTSIDE], ids=["changed", "missing", "surplus", "log"])
async def test_a_change_is_found_and_named(played: Played, changes: Sequence[Change]) -> None:
    """In each table, of each kind; and nothing else is."""
    dsn = played.dsns[HERE]
    keys = await corrupt(dsn, [change.sql for change in changes])
    await rehash(dsn)
    report = await reconciled(dsn)
    for change, key in zip(changes, keys, strict=True):
        named = about(report, change.check)
        assert any(change.row.format(key) in each for each in named), (change.sql, named)
    assert report.findings_count == len(report.findings)
    surprising = {each.check for each in report.findings} - {change.check for change in changes} - {Check.BOOKS}
    # Sagas claim what the barrier does not say any more; an effect that a saga does not name is another state of it.
    assert surprising <= ({Check.PROJECTION} if changes is OUTSIDE else {Check.SAGA})


async def test_a_present_state_is_found_wrong_by_any_pass(played: Played) -> None:
    """Also where nothing has happened since the last one; it says what the state must be, and what it is."""
    dsn = played.dsns[HERE]
    await reconciled(dsn)
    [account_id] = await corrupt(dsn, [CHANGED[0].sql])
    report = await reconciled(dsn, full=False)
    assert report.events_count == 0
    [finding] = report.findings
    assert finding.row == f"accounts {account_id}"
    assert '"available_minor": "1"' in finding.found
    assert '"available_minor":"1"' not in finding.expected
    assert [each.id for each in report.states] == [account_id]


RICH = "state = jsonb_set(state::jsonb, '{balances,USD,available_minor}', '\"99999999\"') WHERE id = $1"
FEES = "balance_minor = balance_minor + 7 WHERE account = 'fees' AND $1::uuid IS NOT NULL"


@pytest.mark.parametrize("key", [b"k", b""], ids=["sealed", "not sealed"])
@pytest.mark.parametrize(
    ("tables", "change", "wrong"),
    [
        (("accounts", "reconciled_states"), RICH, {Check.PROJECTION, Check.BOOKS}),
        (("house_balances", "reconciled_house"), FEES, {Check.HOUSE, Check.BOOKS}),
        (("reconciled",), "position = position - 1 WHERE $1::uuid IS NOT NULL", set()),
    ],
    ids=["states", "house", "position"],
)
async def test_no_pass_is_blinded_by_a_change_of_what_it_goes_on_from(
    played: Played, tables: Sequence[str], change: str, wrong: set[Check], key: bytes
) -> None:
    """The row and the replay that it is compared with are changed alike: only a seal makes the pass begin anew."""
    dsn = played.dsns[HERE]
    await reconciled(dsn, key=key)
    assert (await reconciled(dsn, full=False, key=key)).events_count == 0
    for table in tables:
        await ask(dsn, f"UPDATE {table} SET {change}", played.ann)  # noqa: S608
    report = await reconciled(dsn, full=False, key=key)
    if key:
        assert report.full
        assert {each.check for each in report.findings} == {Check.REPLAY, *wrong}
    elif wrong:
        assert report.findings == []


async def test_a_pass_that_was_broken_off_is_begun_anew_without_an_alarm(played: Played) -> None:
    """What it has written until then has no seal."""
    dsn = played.dsns[HERE]
    await reconciled(dsn, key=b"k")
    await ask(dsn, "UPDATE reconciled SET seal = NULL")
    report = await reconciled(dsn, full=False, key=b"k")
    assert (report.full, report.findings) == (True, [])


async def test_a_pass_stands_at_one_moment_while_the_cell_writes(played: Played) -> None:
    """Money moves all the time, and not a cent is missed or seen twice."""
    async with serving(played.dsns) as town:
        moving = asyncio.create_task(to_and_fro(town.here.execute, played))
        try:
            last, passes = 0, 0
            while passes < 5:
                report = await reconciled(played.dsns[HERE], full=passes == 0)
                assert report.findings == []
                assert report.position > last
                last, passes = report.position, passes + 1
        finally:
            moving.cancel()
            await asyncio.wait([moving])


async def to_and_fro(execute: object, played: Played) -> None:
    payer, payee = played.ann, played.ben
    while True:
        await asyncio.gather(
            *(
                execute(request(Transfer(from_user_id=payer, to_user_id=payee, amount=Money("USD", 1))))  # type: ignore[operator]
                for _ in range(20)
            )
        )
        payer, payee = payee, payer


# Of the events of a user, and how it is told.
POISONED = (
    (
        """UPDATE event_store SET event_type = 'MANNA_FELL' WHERE position = (
        SELECT max(position) FROM event_store WHERE aggregate_id = $1) RETURNING position""",
        "UnknownEvent: MANNA_FELL",
    ),
    (
        """UPDATE event_store SET payload = payload - 'currency' WHERE position = (
        SELECT min(position) FROM event_store WHERE aggregate_id = $1 AND event_type = 'DEPOSITED')
        RETURNING position""",
        "KeyError: 'currency'",
    ),
    (
        """UPDATE event_store SET metadata = metadata || '{"v": 99}' WHERE position = (
        SELECT min(position) FROM event_store WHERE aggregate_id = $1 AND event_type = 'DEPOSITED')
        RETURNING position""",
        "version 99",
    ),
    (
        """DELETE FROM event_store WHERE position = (
        SELECT min(position) FROM event_store WHERE aggregate_id = $1 AND event_type = 'DEPOSITED')
        RETURNING position""",
        "comes after number 1",
    ),
)


@pytest.mark.parametrize(("sql", "problem"), POISONED, ids=["type", "payload", "version", "deleted"])
async def test_a_poisoned_event_halts_its_stream_and_no_other(played: Played, sql: str, problem: str) -> None:
    """It is named, and why; everything else is compared to the end. So is it in every pass from then on."""
    dsn = played.dsns[HERE]
    async with superuser(dsn) as connection:
        position = await connection.fetchval(sql, played.ben)
    await corrupt(
        dsn, ["UPDATE house_balances SET balance_minor = balance_minor + 7 WHERE account = 'fees' RETURNING 1"]
    )
    await rehash(dsn)
    report = await reconciled(dsn)
    assert report.halted == [played.ben]
    events = about(report, Check.EVENT)
    assert any(problem in each and str(played.ben) in each for each in events), events
    assert any(f"position {position}" in each for each in events), events
    # Where a row is gone, no sum is held against the tables; where one cannot be read, it is said.
    assert bool(about(report, Check.HOUSE)) is not bool(report.damaged_count)
    assert report.house == []
    assert not about(report, Check.PROJECTION)
    assert (await reconciled(dsn, full=False)).halted == [played.ben]


async def test_a_second_pass_waits_for_no_first(played: Played) -> None:
    """Two at once would write down each other's progress: the second is told so."""
    dsn = played.dsns[HERE]
    first = await connect(dsn, role=CELL_ROLE, application="test/first")
    try:
        await Reconciler(connection=first).run()
        with pytest.raises(AuditUnderWay):
            await reconciled(dsn)
    finally:
        await first.close()


async def test_the_log_of_a_market_gives_its_tables_however_it_is_read(played: Played) -> None:
    """Event by event, in portions, streams mixed: each time the states to the byte that the tables hold."""
    async with superuser(played.dsns[HERE]) as connection:
        rows = await connection.fetch(SQL["events"], 0, 1_000_000)
        log = LogCheck(report=Report(cell=HERE)).read(rows, 1, len(rows), {})
        tables: dict[UUID, str] = {}
        for table in ("accounts", "assets", "auctions", "sagas"):
            rows = await connection.fetch(f"SELECT id, state FROM {table}")  # noqa: S608
            tables |= {row["id"]: row["state"] for row in rows}
    assert len(log) > 50
    for sizes, seed in (((1,) * len(log), None), ((7,) * 20, None), ((), 1), ((3,) * 40, 2)):
        fold = Fold(cell=HERE)
        for portion in portions_of(log if seed is None else shuffled(log, seed), sizes):
            assert fold.apply(portion).findings == []
        states = {key: codec.encode_state(entry.state) for key, entry in fold.states.items()}
        assert states == tables


# --- a changed log is never made the truth ---


TENFOLD = """UPDATE event_store SET payload = jsonb_set(jsonb_set(payload, '{amount_minor}', to_jsonb(
        ((payload->>'amount_minor')::bigint * 10)::text)), '{postings}', (
        SELECT jsonb_agg(jsonb_set(p, '{amount_minor}', to_jsonb(((p->>'amount_minor')::bigint * 10)::text)))
        FROM jsonb_array_elements(payload->'postings') p))
    WHERE position = (SELECT min(position) FROM event_store WHERE event_type = 'DEPOSITED')
    RETURNING position"""
OF_ANOTHER = """UPDATE event_store e SET aggregate_id = gen_random_uuid(), stream_version = 1
    WHERE position = (SELECT max(position) FROM event_store WHERE event_type = 'TRANSFER_SENT') RETURNING position"""
LAST_GONE = """DELETE FROM event_store e WHERE position = (
        SELECT max(position) FROM event_store a WHERE event_type IN ('FUNDS_RESERVED', 'WITHDRAWN', 'TRANSFER_RECEIVED')
        AND NOT EXISTS (SELECT FROM event_store b WHERE b.aggregate_id = a.aggregate_id
                        AND b.stream_version > a.stream_version)) RETURNING position"""


async def tables(dsn: str) -> list[object]:
    """All that a rebuild may write."""
    queries = (
        "SELECT id, stream_version, state FROM accounts ORDER BY id",
        "SELECT * FROM house_balances ORDER BY account, currency",
        "SELECT * FROM account_entries ORDER BY account_id, currency, position",
        "SELECT * FROM clearing_entries ORDER BY clearing_id, position",
    )
    return [await ask(dsn, query) for query in queries]


async def refused(town: Town) -> LogDamaged:
    with pytest.raises(LogDamaged) as caught:
        await rebuild(town.reconciliations[HERE], author=Author("operator/olga"), note="as the runbook says")
    return caught.value


@pytest.mark.parametrize("forgery", [TENFOLD, OF_ANOTHER, LAST_GONE], ids=["amount", "stream", "deleted"])
async def test_nothing_is_rebuilt_over_a_changed_log(played: Played, forgery: str) -> None:
    """The row is named by its position, no table is blamed for it, and the rebuild changes none of them."""
    dsn = played.dsns[HERE]
    [position] = await corrupt(dsn, [forgery])
    before = await tables(dsn)
    async with serving(played.dsns) as town:
        found = await town.reconciliations[HERE].reconcile(Order(full=True))
        assert {each.check for each in found.findings} <= {Check.EVENT, Check.SAGA, Check.OUTCOME}
        assert any(f"position {position}" in each.row for each in found.findings)
        assert (found.report.states, found.report.house) == ([], [])
        error = await refused(town)
        assert f"position {position}" in error.message
        assert await available(town.here, played.ann) < 1_000_000
    assert await tables(dsn) == before


async def test_without_the_check_the_forgery_becomes_money(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    """Switched off, the safeguard makes ten times the deposit spendable."""
    monkeypatch.setattr("cells.audit.checks.log_check.OTHER_BYTES", "")
    dsn = played.dsns[HERE]
    await corrupt(dsn, [TENFOLD])
    async with serving(played.dsns) as town:
        await rebuild(town.reconciliations[HERE], author=Author("operator/olga"), note="as the runbook says")
        assert max([await available(town.here, user) for user in (played.ann, played.ben)]) > 900_000


async def test_what_was_signed_is_what_a_forger_of_hashes_fails_at(played: Played) -> None:
    """The row's own hash is made right, too: the tree over all rows is still not the one that was signed."""
    dsn = played.dsns[HERE]
    signed = await root_of(dsn)
    await corrupt(dsn, [TENFOLD])
    await rehash(dsn)
    async with serving(played.dsns) as town:
        reconciliation = town.reconciliations[HERE]
        report = await reconciliation.passes.run(
            Order(full=True, mend_epoch=town.here.writer.epoch, signed_size=signed[0], signed_root=signed[1]),
            lambda _: None,
        )
        assert report.damaged_count == 1
        assert report.mended_count == 0
        assert any("whose tree has the root" in each.expected for each in report.findings)
        # Where nothing was signed, nobody can tell.
        assert (await reconciliation.passes.run(Order(full=True), lambda _: None)).damaged_count == 0


async def test_events_that_were_signed_and_are_gone_are_missed(played: Played) -> None:
    """Also those at the end, where no gap is left."""
    size, root = await root_of(played.dsns[HERE])
    async with serving(played.dsns) as town:
        order = Order(full=True, signed_size=size + 1_000, signed_root=root)
        report = await town.reconciliations[HERE].passes.run(order, lambda _: None)
    assert report.damaged_count == 1
    assert any(f"the {size + 1_000} events that were signed" in each.expected for each in report.findings)


async def root_of(dsn: str) -> tuple[int, str]:
    """How many events there are, and the root of the tree over them."""
    frontier = Frontier()
    for (leaf,) in await ask(dsn, "SELECT leaf_hash FROM event_store ORDER BY position"):
        frontier.add(leaf)
    return frontier.size, frontier.root().hex()


async def test_a_wrong_table_beside_a_sound_log_is_still_rebuilt(played: Played) -> None:
    """With what was signed at hand: the check hinders no honest rebuild."""
    dsn = played.dsns[HERE]
    await corrupt(dsn, [CHANGED[0].sql])
    async with serving(played.dsns) as town:
        done = await rebuild(town.reconciliations[HERE], author=Author("operator/olga"), note="a disk that lies")
        assert (done.states_count, done.after.findings) == (1, [])
