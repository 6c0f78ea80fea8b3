"""Readers that keep every connection of theirs busy keep neither a command waiting nor a new leader from leading."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from cells.store.postgres import PostgresStore
from cells.writer.leadership import TAKEOVER_S
from server.process.cell import READ_CONNECTIONS_MAX, build_cell, open_store
from server.process.settings import ServerSettings
from server.shell.hosting.security import build_security
from tests.integration.database import CELL
from tests.local_cells import deposit, leading, open_user, request

SOON_S = 5.0


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[PostgresStore]:
    """A store as the server opens it."""
    store = await open_store(CELL, dsn)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def all_reading(store: PostgresStore) -> AsyncIterator[None]:
    """Every connection for reads is taken, as by so many slow queries."""
    async with AsyncExitStack() as stack:
        for _ in range(READ_CONNECTIONS_MAX):
            await stack.enter_async_context(store.reading())
        yield


@pytest.mark.parametrize("own", [True, False])
async def test_readers_keep_no_command_waiting(cell_dsn: str, *, own: bool) -> None:
    """What the writer looks up, a stored outcome or an account, has connections of its own. Ablation: without them the

    command waits for the readers, and the beat with it, for longer than a standby does.
    """
    async with opened(cell_dsn) as store:
        if not own:
            await store.of_leader().close()
            store.leads = store._of_leader = None
        settings = ServerSettings(cell=CELL, dsn=cell_dsn)
        parts = build_cell(settings, store, build_security(settings))
        cell, peers = parts.cell, parts.peers
        async with leading(parts.leadership):
            user_id = await open_user(cell)
            async with all_reading(store):
                command = asyncio.create_task(cell.execute(request(deposit(user_id))))
                done, _ = await asyncio.wait([command], timeout=SOON_S if own else TAKEOVER_S + 0.5)
                assert bool(done) is own
            await command
        await peers.close()


async def test_readers_keep_no_new_leader_from_leading(cell_dsn: str) -> None:
    """The election looks at the head row, and the leader at what is open, while all readers are at it."""
    async with opened(cell_dsn) as store:
        settings = ServerSettings(cell=CELL, dsn=cell_dsn)
        parts = build_cell(settings, store, build_security(settings))
        cell, peers = parts.cell, parts.peers
        async with all_reading(store), leading(parts.leadership):
            assert cell.leading
        await peers.close()
