"""The end of the log is sealed: no event that somebody else appends is ever served or signed, whoever leads next."""

import asyncio
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from cells.audit.proofs.keys import CellKeys, new_keys
from cells.audit.reconcile.findings import Check
from cells.domain.commands import Transfer, Withdraw
from cells.domain.moves.commands import BeginMove
from cells.domain.refusals import InsufficientFunds
from cells.domain.values import Money
from cells.encoding.head_seal import HeadSeal
from cells.encoding.outcome_seal import OutcomeSeal
from cells.store.ports import HeadMoved
from cells.store.postgres import PostgresStore
from cells.store.unusable import HeadNotProven
from tests.integration.books.test_reconcile import about, reconciled
from tests.integration.database import CELL, ask, opened
from tests.integration.moves.moves_rig import asked
from tests.integration.played import HERE, THERE, Played, serving, superuser
from tests.local_cells import available, build_cell, deposit, leading, open_user, request, until

KEYS: CellKeys = new_keys(CELL, bytes)

# The last deposit once more: everything that PostgreSQL and docs/log-format.md ask for, and the money with it.
APPENDED = (
    """INSERT INTO event_store
    SELECT position + 1, gen_random_uuid(), event_type, aggregate_id, stream_version + 1, causation_id, correlation_id,
           hlc_physical + 1, 0, jsonb_set(vector_clock, '{us-east}', to_jsonb(position + 1)), payload, metadata,
           user_id, recorded_at, leaf_hash
    FROM event_store ORDER BY position DESC LIMIT 1""",
    """UPDATE accounts SET stream_version = stream_version + 1,
           state = jsonb_set(state::jsonb, '{balances,USD,available_minor}', '"1000000"')""",
    "UPDATE head SET position = position + 1, beat = 0",
)


def sealed(store: PostgresStore, accepted: int | None = None) -> PostgresStore:
    store.seal = HeadSeal(cell=CELL, key=KEYS.secret("head"), accepted=accepted)
    return store


async def append(dsn: str) -> None:
    async with superuser(dsn) as connection:
        for statement in APPENDED:
            await connection.execute(statement)


async def written(dsn: str, deposits: int = 3) -> None:
    async with opened(dsn) as store:
        cell = build_cell(CELL, sealed(store))
        async with leading(cell):
            user = await open_user(cell, 100)
            for _ in range(deposits):
                await cell.execute(request(deposit(user)))


async def test_the_next_leader_does_not_take_up_an_event_that_was_appended(cell_dsn: str) -> None:
    """It raises no epoch, and says what to do; without a seal it leads, and the money is there."""
    await written(cell_dsn)
    await append(cell_dsn)
    before = await ask(cell_dsn, "SELECT * FROM head")
    async with opened(cell_dsn) as store:
        with pytest.raises(HeadNotProven, match="CELLBOOK_ACCEPT_HEAD=6"):
            await sealed(store).claim()
        assert await ask(cell_dsn, "SELECT * FROM head") == before
        store.seal = None
        cell = build_cell(CELL, store)
        async with leading(cell):
            [(user,)] = await ask(cell_dsn, "SELECT id FROM accounts")
            assert await available(cell, user) == 1_000_000


async def test_a_leader_whose_head_moved_under_its_epoch_ends_and_says_so(cell_dsn: str) -> None:
    """No other process that keeps to the rules does that: it is no takeover, and nobody stands by for it."""
    async with opened(cell_dsn) as store:
        cell = build_cell(CELL, sealed(store))
        running = asyncio.create_task(cell.run())
        await until(lambda: cell.leading)
        await open_user(cell, 100)
        await append(cell_dsn)
        done, _ = await asyncio.wait([running], timeout=10)
        assert done
        with pytest.raises(HeadNotProven) as caught:
            running.result()
        assert isinstance(caught.value.__cause__, HeadMoved)


@pytest.mark.parametrize(
    "change",
    [
        """UPDATE event_store SET payload = payload || '{"amount_minor": "7"}'
        WHERE position = (SELECT max(position) FROM event_store)""",
        "UPDATE head SET seal = NULL",
        "UPDATE head SET sealed_since = position",
        "UPDATE head SET seal = sha256(seal)",
        "UPDATE head SET position = position - 1",
    ],
    ids=["row", "no seal", "signed it is said", "another seal", "rolled back"],
)
async def test_every_part_of_the_end_is_under_the_seal(cell_dsn: str, change: str) -> None:
    """The bytes of the rows that no checkpoint covers, the position, and from where on the seal proves."""
    await written(cell_dsn)
    async with superuser(cell_dsn) as connection:
        await connection.execute(change)
    async with opened(cell_dsn) as store:
        with pytest.raises(HeadNotProven):
            await sealed(store).claim()


async def test_an_operator_may_accept_the_log_as_it_is(cell_dsn: str) -> None:
    """By its very position; from then on it is sealed again."""
    await written(cell_dsn)
    await append(cell_dsn)
    for accepted, goes_on in ((5, False), (6, True), (None, True)):
        async with opened(cell_dsn) as store:
            if goes_on:
                async with leading(build_cell(CELL, sealed(store, accepted))):
                    pass
            else:
                with pytest.raises(HeadNotProven):
                    await sealed(store, accepted).claim()


async def test_what_is_signed_need_not_be_under_the_seal(cell_dsn: str) -> None:
    """So that a successor reads a few rows, however long the log is; and the seal holds over restarts and beats."""
    async with opened(cell_dsn) as store:
        cell = build_cell(CELL, sealed(store))
        async with leading(cell):
            user = await open_user(cell, 100)
            assert store.seal is not None
            store.seal.signed(2)
            await cell.execute(request(deposit(user)))
            assert store.seal.since == 2
    for _ in range(2):
        async with opened(cell_dsn) as store:
            cell = build_cell(CELL, sealed(store))
            async with leading(cell):
                assert store.seal is not None
                assert store.seal.since == 2
                await cell.execute(request(deposit(user)))


async def test_a_key_of_another_cell_proves_nothing(cell_dsn: str, tmp_path: Path) -> None:
    """Nor does the same key for another cell's log."""
    await written(cell_dsn)
    for seal in (
        HeadSeal(cell=CELL, key=new_keys("eu-west", bytes).secret("snapshots")),
        HeadSeal(cell="eu-west", key=KEYS.secret("head")),
    ):
        async with opened(cell_dsn) as store:
            store.seal = seal
            with pytest.raises(HeadNotProven):
                await store.claim()


# --- stored answers are sealed, too ---


KEY = b"a key that is in no database ...".ljust(32)


@pytest.fixture
async def answers(played: Played) -> dict[str, UUID]:
    """What cells with a key have answered: a command of each kind, by what it came to."""
    commands = {name: uuid4() for name in ("accepted", "refused", "ended", "moved")}
    # Rows without a seal are of a version before, long ago.
    for dsn in played.dsns.values():
        await ask(dsn, "UPDATE command_outcomes SET recorded_at = recorded_at - INTERVAL '2 days'")
        await ask(dsn, "UPDATE schema_migrations SET applied_at = applied_at - INTERVAL '2 days'")
    async with serving(played.dsns) as town:
        town.directory.homes |= {played.ann: HERE, played.ben: HERE, played.carl: THERE}
        for cell in (town.here, town.there):
            assert isinstance(cell.store, PostgresStore)
            cell.store.outcome_seal = OutcomeSeal(KEY)
        await town.here.execute(request(deposit(played.ann, 7), command_id=commands["accepted"]))
        much = Withdraw(user_id=played.ann, amount=Money("USD", 2**40), external_reference="too much")
        with pytest.raises(InsufficientFunds):
            await town.here.execute(asked(much, played.ann, command_id=commands["refused"]))
        paid = Transfer(from_user_id=played.ben, to_user_id=played.carl, amount=Money("USD", 3), to_cell=THERE)
        await town.here.execute(request(paid, command_id=commands["ended"]))
        move = BeginMove(user_id=played.ann, to_cell=THERE, region=None)
        await town.here.execute(asked(move, played.ann, command_id=commands["moved"]))
        await town.quiet()
    return commands


async def test_answers_of_every_kind_are_sealed(played: Played, answers: dict[str, UUID]) -> None:
    """Those of flows when they end, and those that a user brings along by the new home: no pass finds anything."""
    for dsn in played.dsns.values():
        assert (await reconciled(dsn, key=KEY)).findings == []
        assert (await reconciled(dsn, full=False, key=KEY)).findings == []
        assert (await ask(dsn, "SELECT count(*) FROM command_outcomes WHERE seal IS NOT NULL"))[0][0] >= 2
    for name, command_id in answers.items():
        assert await ask(played.dsns[HERE], "SELECT 1 FROM command_outcomes WHERE command_id = $1", command_id), name
    query = "SELECT 1 FROM command_outcomes WHERE command_id = $1 AND cell = $2 AND seal IS NOT NULL"
    assert await ask(played.dsns[THERE], query, answers["refused"], HERE)


READ = "SELECT outcome, position, hlc_physical, seal FROM command_outcomes WHERE command_id = $1"
WRITE = """UPDATE command_outcomes SET outcome = $2, position = $3, hlc_physical = $4, seal = $5
    WHERE command_id = $1"""
CHANGES = {
    "amount": """outcome = replace(outcome::text, '1099511627776', '5')::jsonb""",
    "text": """outcome = '{"refused": {"reason": "ALREADY_OPEN", "facts": {"user_id": "x"}}}'""",
    "result": """outcome = jsonb_set(outcome, '{accepted,more}', '"7"')""",
    "position": "position = position - 1",
    "stamp": "hlc_physical = hlc_physical + 1",
    "unsealed": "hlc_physical = hlc_physical + 1, seal = NULL",
    "of another": "seal = (SELECT seal FROM command_outcomes o WHERE o.seal <> c.seal LIMIT 1)",
}


TAMPERED = (
    ("refused", "amount"),
    ("refused", "text"),
    ("refused", "position"),
    ("refused", "unsealed"),
    ("accepted", "result"),
    ("accepted", "stamp"),
    ("ended", "result"),
    ("ended", "of another"),
    ("moved", "result"),
)


async def test_a_changed_answer_is_named(played: Played, answers: dict[str, UUID]) -> None:
    """By a full pass, in each cell where it is kept, and by no pass that has no key."""
    for name, change in TAMPERED:
        found = 0
        for dsn in played.dsns.values():
            kept = await ask(dsn, READ, answers[name])
            if not kept:
                continue
            found += 1
            await ask(dsn, f"UPDATE command_outcomes c SET {CHANGES[change]} WHERE command_id = $1", answers[name])  # noqa: S608
            named = about(await reconciled(dsn, key=KEY), Check.OUTCOME)
            assert any(str(answers[name]) in each and "seal" in each for each in named), (name, change, named)
            assert not any("seal" in each for each in about(await reconciled(dsn), Check.OUTCOME))
            await ask(dsn, WRITE, answers[name], *kept[0])
        assert found, name
    for dsn in played.dsns.values():
        assert (await reconciled(dsn, key=KEY)).findings == []
