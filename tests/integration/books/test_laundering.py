"""A log that somebody has changed is never made the truth: it is named, and no table is made to agree with it."""

import pytest

from cells.audit.reconcile.findings import Check, Order
from cells.audit.reconcile.rebuild import rebuild
from cells.audit.verify.tree import Frontier
from cells.domain.audit.refusals import LogDamaged
from cells.requests import Author
from tests.integration.books.corruptions import CHANGED
from tests.integration.database import ask
from tests.integration.played import HERE, Played, Town, corrupt, rehash, serving
from tests.local_cells import available

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
