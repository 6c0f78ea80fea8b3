"""What a new leader reads before it takes commands: what is open, not what has happened."""

import asyncio

from cells.store.postgres import PostgresStore
from tests.integration.database import ask, opened
from tests.local_cells import build_cell, deposit, leading, open_auction, open_user, request, until_async

# The head row a few times, the open auction and its likes; the catalogue is not counted.
ROWS_MAX = 50
COMMANDS = 300
READ = "SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)::bigint FROM pg_stat_user_tables"
OTHERS = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


async def rows_read(dsn: str) -> int:
    """So far, by all sessions: each reports at its end, which is waited for."""
    await until_async(lambda: ask(dsn, OTHERS), lambda found: not found)
    [[count]] = await ask(dsn, READ)
    return int(count)


async def take_over(dsn: str) -> None:
    """A process that leads, and ends."""
    async with opened(dsn) as store, leading(build_cell("us-east", store)):
        pass


async def history(store: PostgresStore) -> None:
    """Of one user and one open auction: so many deposits, each with its events, entries and outcome."""
    cell = build_cell("us-east", store)
    async with leading(cell):
        user_id = await open_user(cell, 100)
        await open_auction(cell, user_id)
        await asyncio.gather(*(cell.execute(request(deposit(user_id))) for _ in range(COMMANDS)))


async def test_a_takeover_reads_a_bounded_number_of_rows(cell_dsn: str) -> None:
    """However much has happened: the head, and what is open."""
    async with opened(cell_dsn) as store:
        await history(store)
    before = await rows_read(cell_dsn)
    await take_over(cell_dsn)
    assert 0 < await rows_read(cell_dsn) - before <= ROWS_MAX


async def test_reading_the_log_would_be_noticed(cell_dsn: str) -> None:
    """Ablation: a takeover that goes through the events reads more than the bound."""
    async with opened(cell_dsn) as store:
        await history(store)
    before = await rows_read(cell_dsn)
    async with opened(cell_dsn) as store:
        await store.events(from_position=1, limit=10_000)
    assert await rows_read(cell_dsn) - before > ROWS_MAX
