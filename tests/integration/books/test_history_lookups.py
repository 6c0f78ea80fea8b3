"""What is asked of the past costs a bounded number of pages, and as many in a store of four times the size."""

import json
from collections.abc import AsyncIterator

import asyncpg
import pytest

from cells.audit.history.lookups import SQL
from server.shell.postgres.database import Connection
from tests.integration.database import TIMEOUT_S

USER = "md5('7')::uuid"
# From one position to another: 500 accounts in turn, each with entries in two currencies, and one with a hundred times
# as many events as the others; snapshots of every 64th event.
FILL = """
    INSERT INTO event_store
    SELECT n, gen_random_uuid(), 'DEPOSITED',
           CASE WHEN n % 5 = 0 THEN md5('7')::uuid ELSE md5((n % 500)::text)::uuid END,
           n, NULL, gen_random_uuid(), n, 0, '{}', '{"postings":[]}', '{}', NULL, now(), ''
    FROM generate_series($1::int, $2::int) n
"""
ENTRIES = """
    INSERT INTO account_entries
    SELECT aggregate_id, CASE WHEN position % 2 = 0 THEN 'USD' ELSE 'EUR' END, position, 1, 0, 0, 1, 0, 0
    FROM event_store WHERE position BETWEEN $1 AND $2
"""
SNAPSHOTS = """
    INSERT INTO snapshots
    SELECT aggregate_id, position, stream_version, 'account', repeat('x', 500), '', '', ''
    FROM event_store WHERE position BETWEEN $1 AND $2 AND position % 64 = 0
"""
FEW, MANY = 20_000, 80_000

# Query, its arguments, and how many pages it may look at.
LOOKUPS = [
    ("point_at", "{middle}, 0, {end}", 70),
    ("events_at", "ARRAY[{middle}, {middle} + 1]", 12),
    ("stream_begins", USER, 8),
    ("stream_from", f"{USER}, {{middle}}, 64", 40),
    ("snapshot_at", f"{USER}, {{middle}}", 8),
    ("account_balances_at", f"{USER}, {{middle}}", 30),
    ("all_balances_at", "md5('9')::uuid, 'EUR', {middle}, 50", 600),
    ("house_snapshot_at", "{middle}", 4),
]


@pytest.fixture
async def connection(cell_dsn: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(cell_dsn, timeout=TIMEOUT_S, command_timeout=60)
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    yield connection
    await connection.close(timeout=TIMEOUT_S)


async def fill(connection: Connection, first: int, last: int) -> None:
    for statement in (FILL, ENTRIES, SNAPSHOTS):
        await connection.execute(statement, first, last)
    await connection.execute("ANALYZE")


async def pages(connection: Connection, name: str, query: str, arguments: str) -> int:
    """How many the query has looked at, cached or not."""
    await connection.execute(f"PREPARE {name} AS {query}")
    try:
        # Once without counting: the first use of a plan reads the catalogue.
        await connection.fetch(f"EXECUTE {name}({arguments})")
        shown = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE {name}({arguments})")
    finally:
        await connection.execute(f"DEALLOCATE {name}")
    plan = json.loads(shown)[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


async def test_the_past_is_a_bounded_number_of_lookups(connection: Connection) -> None:
    """Each query by itself, in a store of 20,000 events and of 80,000."""
    await fill(connection, 1, FEW)
    for end in (FEW, MANY):
        for name, arguments, most in LOOKUPS:
            looked = await pages(connection, name, SQL[name], arguments.format(middle=end // 2, end=end))
            print(f"{end:,}: {name} {looked}")
            assert looked <= most, (end, name)
        if end == FEW:
            await fill(connection, FEW + 1, MANY)


async def test_reading_a_stream_to_a_position_would_read_all_of_it(connection: Connection) -> None:
    """Ablation: the bound in the query itself is looked for to the end of the stream."""
    await fill(connection, 1, FEW)
    bounded = SQL["stream_from"].replace("stream_version >= $2", "stream_version >= $2 AND position <= $4")
    assert bounded != SQL["stream_from"]
    looked = await pages(connection, "bounded", bounded, f"{USER}, 9950, 64, 10000")
    print(looked)
    assert looked > 150
