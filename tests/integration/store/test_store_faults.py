"""The store on PostgreSQL when connections are cut, servers hang and leaders stop. With each safeguard's ablation."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg
import pytest

from cells.store import postgres as store_module
from cells.store import sessions as store_sessions
from cells.store.ports import CommitUnknown, Fenced, Poisoned, Store, StoreUnavailable
from cells.store.postgres import PostgresStore
from cells.store.unusable import DatabaseOfAnotherCell
from server.shell.postgres import database
from server.shell.postgres.database import Connection
from tests.integration.database import TIMEOUT_S, ask, opened
from tests.integration.rows import batch_on, event_row, outcome_row
from tests.integration.wire import COMMIT, Wire, once

# Sessions of a cell's writers, by database.
WRITERS = (
    "SELECT pid, state, application_name FROM pg_stat_activity WHERE datname = current_database() "
    "AND application_name LIKE 'cellbook/%/writer/%'"
)


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
async def cut_store(cell_dsn: str, wire: Wire) -> AsyncIterator[PostgresStore]:
    async with wire.listening(cell_dsn) as dsn, opened(dsn) as store:
        yield store


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Waits for a condition, not for a time."""
    async with asyncio.timeout(TIMEOUT_S):
        while not await condition():  # noqa: ASYNC110 - what is awaited has no event
            await asyncio.sleep(0.005)


@contextmanager
def commits_within(monkeypatch: pytest.MonkeyPatch, seconds: float) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "COMMIT_TIMEOUT_S", seconds)
        # Nor any longer where the server is at work.
        patch.setattr(store_sessions, "WORK_MAX_S", seconds)
        yield


@asynccontextmanager
async def commit_held_up(superuser: Connection) -> AsyncIterator[None]:
    """Within it every COMMIT that moves the head waits, on the server, for the exit."""
    await superuser.execute("""
        CREATE FUNCTION wait_for_test() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER wait_for_test AFTER UPDATE OF position ON head
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait_for_test();
        SELECT pg_advisory_lock(7);
    """)
    try:
        yield
    finally:
        await superuser.execute("SELECT pg_advisory_unlock_all()")


# --- a connection that is lost ------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", [b"BEGIN\x00", b"event_store"])
async def test_a_connection_lost_before_commit_has_written_nothing(
    cut_store: PostgresStore, wire: Wire, word: bytes
) -> None:
    """The batch may be sent again as it is, on a new connection."""
    head = await cut_store.claim()
    batch = batch_on(head, event_row(1), outcomes=[outcome_row()])
    wire.before = once(word)
    with pytest.raises(StoreUnavailable):
        await cut_store.append(batch)
    assert (await cut_store.head()).position == 0
    await cut_store.append(batch)
    assert (await cut_store.head()).position == 1


@pytest.mark.parametrize("committed", [True, False])
async def test_a_connection_lost_in_commit_leaves_it_unknown(
    cut_store: PostgresStore, wire: Wire, *, committed: bool
) -> None:
    """Whether it got there or only its answer was lost, a claim tells for certain."""
    head = await cut_store.claim()
    if committed:
        wire.after = once(COMMIT)
    else:
        wire.before = once(COMMIT)
    with pytest.raises(CommitUnknown):
        await cut_store.append(batch_on(head, event_row(1)))
    claimed = await cut_store.claim(expected_epoch=head.epoch)
    assert claimed.position == committed
    await cut_store.append(batch_on(claimed, event_row(claimed.position + 1)))


async def test_a_backend_ended_in_commit_leaves_it_unknown(cell_dsn: str, superuser: Connection) -> None:
    """The server says that it goes away, with the COMMIT under way: that is no definite no."""
    async with opened(cell_dsn) as store:
        head = await store.claim()
        async with commit_held_up(superuser):
            appending = asyncio.create_task(store.append(batch_on(head, event_row(1))))
            await until(lambda: waiting_for_lock(superuser))
            await superuser.execute(f"SELECT pg_terminate_backend(pid) FROM ({WRITERS}) w")  # noqa: S608
            with pytest.raises(CommitUnknown):
                await appending
        assert (await store.claim()).position == 0


async def test_a_claim_waits_for_a_commit_that_is_under_way(
    cell_dsn: str, superuser: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old backend outlives its client and commits. Ablation: the head alone would have said that it did not."""
    monkeypatch.setattr(PostgresStore, "_terminate_deposed", nothing)
    async with opened(cell_dsn) as store:
        head = await store.claim()
        async with commit_held_up(superuser):
            with commits_within(monkeypatch, 0.5), pytest.raises(CommitUnknown):
                await store.append(batch_on(head, event_row(1)))
            guess = (await store.head()).position
            claiming = asyncio.create_task(store.claim(expected_epoch=head.epoch))
            await until(lambda: waiting_for_row(superuser))
            assert not claiming.done()
        claimed = await claiming
        assert (guess, claimed.position) == (0, 1)


async def test_reads_say_that_the_database_is_away(cut_store: PostgresStore, wire: Wire) -> None:
    """And work again once it is back, without a restart."""
    wire.open = False
    wire.cut()
    for call in (cut_store.head(), cut_store.claim(), cut_store.events(from_position=1, limit=1)):
        with pytest.raises(StoreUnavailable):
            await call
    wire.open = True
    await until(lambda: succeeds(cut_store))
    await cut_store.append(batch_on(await cut_store.claim(), event_row(1)))


async def test_a_connection_whose_client_has_lost_its_way_is_given_up(
    cell_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ended the session between two statements; asyncpg calls that an error within itself."""

    async def lost(*_: object, **__: object) -> None:
        raise asyncpg.InternalClientError("cannot switch to state 21; another operation (2) is in progress")

    async with opened(cell_dsn) as store:
        head = await store.claim()
        with monkeypatch.context() as patch:
            patch.setattr(asyncpg.Connection, "copy_records_to_table", lost)
            with pytest.raises(StoreUnavailable):
                await store.append(batch_on(head, event_row(1)))
        await store.append(batch_on(head, event_row(1)))


# --- a server that hangs, a leader that stops ---------------------------------------------------------------------


async def test_a_server_that_hangs_is_given_up(
    cell_dsn: str, superuser: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An append waits for so long and no longer, and its transaction ends with it."""
    async with opened(cell_dsn) as store:
        head = await store.claim()
        async with superuser.transaction():
            await superuser.execute("SELECT FROM head FOR UPDATE")
            with commits_within(monkeypatch, 0.3), pytest.raises(StoreUnavailable):
                await store.append(batch_on(head, event_row(1)))
        await store.append(batch_on(head, event_row(1)))
        assert (await store.head()).position == 1


async def test_a_standby_takes_over_from_a_leader_that_is_stopped(cell_dsn: str) -> None:
    """Stopped within its transaction it holds the head's lock; its backend is ended, and it is fenced when it wakes."""
    async with opened(cell_dsn) as leader, opened(cell_dsn) as standby:
        head = await leader.claim()
        await stop_in_transaction(leader)
        claimed = await asyncio.wait_for(standby.claim(expected_epoch=head.epoch), TIMEOUT_S)
        await standby.append(batch_on(claimed, event_row(1)))
        with pytest.raises(Fenced):
            await leader.append(batch_on(head, event_row(1)))


@pytest.mark.parametrize("ends", ["nothing", "the cell's role"])
async def test_without_ending_its_backend_a_stopped_leader_would_block_the_standby(
    cell_dsn: str, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """Ablation: the standby waits for a lock that is not given back.

    The cell's role alone could not end the backend, as it sees no other session: whoever logged in does it.
    """
    if ends == "nothing":
        monkeypatch.setattr(PostgresStore, "_terminate_deposed", nothing)
    else:
        monkeypatch.setitem(store_module.SQL, "as_login_role", "SET LOCAL ROLE cellbook_cell")
    async with opened(cell_dsn) as leader, opened(cell_dsn) as standby:
        await leader.claim()
        await stop_in_transaction(leader)
        with commits_within(monkeypatch, 0.5), pytest.raises(StoreUnavailable):
            await standby.claim()


async def test_the_server_ends_what_idles_within_a_transaction(cell_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ending the stopped leader's backend is not allowed, its lock is given back all the same, if later."""
    monkeypatch.setattr(PostgresStore, "_terminate_deposed", nothing)
    monkeypatch.setattr(database, "IDLE_IN_TRANSACTION_MAX_S", 1)
    async with opened(cell_dsn) as leader, opened(cell_dsn) as standby:
        head = await leader.claim()
        await stop_in_transaction(leader)
        assert (await standby.claim(expected_epoch=head.epoch)).epoch == head.epoch + 1


async def test_ending_the_old_leaders_backend_leaves_the_role_as_it_was(cell_dsn: str) -> None:
    """The login's privileges are given up again at once."""
    async with opened(cell_dsn) as store:
        await store.claim()
        await store.claim()
        assert await (await store._writers()).fetchval("SELECT current_user") == "cellbook_cell"


async def test_a_claim_spares_its_neighbours(cell_dsn: str) -> None:
    """Sessions of readers, of a later epoch, and of another database's leader go on."""
    other = cell_dsn.replace("/cell_", "/cell_neighbour_")
    name = other.split("?")[0].rsplit("/", 1)[1]
    await ask(cell_dsn, f'CREATE DATABASE "{name}" TEMPLATE cell_template')
    try:
        async with opened(other) as neighbour, opened(cell_dsn) as one:
            held = await neighbour.claim()
            before = {row[0] for row in await ask(other, WRITERS)}
            await one.claim()
            await one.claim()
            assert {row[0] for row in await ask(other, WRITERS)} == before
            await neighbour.append(batch_on(held, event_row(1)))
    finally:
        await ask(cell_dsn, f'DROP DATABASE "{name}" WITH (FORCE)')


async def test_failures_leave_no_transaction_open(cell_dsn: str, superuser: Connection) -> None:
    """Poisoned, fenced or cancelled: the writer's session is gone or idle, never within a transaction."""
    async with opened(cell_dsn) as store:
        head = await store.claim()
        row = event_row(1)
        with pytest.raises(Poisoned):
            await store.append(batch_on(head, row, row))
        with pytest.raises(Fenced):
            await store.append(batch_on(head, row, epoch=99))
        async with commit_held_up(superuser):
            appending = asyncio.create_task(store.append(batch_on(head, row)))
            await until(lambda: waiting_for_lock(superuser))
            appending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await appending
        await until(lambda: no_transaction(superuser))


# --- whose database it is -----------------------------------------------------------------------------------------


async def test_another_cells_database_is_refused(cell_dsn: str) -> None:
    """A wrong DSN must not mix two cells' logs: the message names both."""
    async with opened(cell_dsn, "us-east"), opened(cell_dsn, "us-east"):
        pass
    with pytest.raises(DatabaseOfAnotherCell, match="belongs to cell us-east, not to eu-west"):
        async with opened(cell_dsn, "eu-west"):
            pass


async def nothing(*_: Any) -> None:  # noqa: ANN401
    """In place of a safeguard."""


async def stop_in_transaction(leader: PostgresStore) -> None:
    """What is left of a leader that gets SIGSTOP between two statements."""
    writer = await leader._writers()
    await writer.execute("BEGIN")
    await writer.execute("UPDATE head SET beat = beat + 1")


async def succeeds(store: Store) -> bool:
    try:
        await store.head()
    except StoreUnavailable:
        return False
    return True


async def waiting_for_lock(connection: Connection) -> bool:
    return bool(await connection.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))


async def waiting_for_row(connection: Connection) -> bool:
    locks = "SELECT count(*) FROM pg_locks WHERE locktype IN ('transactionid', 'tuple') AND NOT granted"
    return bool(await connection.fetchval(locks))


async def no_transaction(connection: Connection) -> bool:
    return not await connection.fetch(f"{WRITERS} AND state <> 'idle'")
