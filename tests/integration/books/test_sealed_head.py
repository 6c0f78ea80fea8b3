"""The end of the log is sealed: no event that somebody else appends is ever served or signed, whoever leads next."""

import asyncio
from pathlib import Path

import pytest

from cells.audit.proofs.keys import CellKeys, new_keys
from cells.encoding.head_seal import HeadSeal
from cells.store.ports import HeadMoved
from cells.store.postgres import PostgresStore
from cells.store.unusable import HeadNotProven
from tests.integration.database import CELL, ask, opened
from tests.integration.played import superuser
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
