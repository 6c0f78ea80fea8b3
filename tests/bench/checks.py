"""What must hold in a cell after the load, summed in SQL: a figure of bids that are not there is none.

Replaying the log as well, as the tests do, would take longer than the bench.
"""

import asyncpg

from server.shell.postgres.embedded import EmbeddedPostgres
from tests.bench.cluster import DATABASE, Dataset
from tests.invariants import NO_ROWS

# Passes over the log, some seconds each for a million events.
HELD = (
    "postings of an event do not sum to zero",
    "the head is not the last position",
    "a bucket went below zero",
    "a balance is not the sum of its postings",
    "a reserved bucket is not the sum of its holds",
    "a house balance is not the sum of its postings",
)


class CheckFailed(Exception):
    """The cell's database is not what the load should have made of it."""


async def check(postgres: EmbeddedPostgres, dataset: Dataset) -> None:
    """Raises CheckFailed."""
    connection = await asyncpg.connect(postgres.dsn(DATABASE))
    try:
        placed = await connection.fetchval("SELECT count(*) FROM event_store WHERE event_type = 'BID_PLACED'")
        if placed != dataset.bids:
            raise CheckFailed(f"{dataset.bids:,} bids were accepted, and {placed:,} are stored")
        for problem in HELD:
            if rows := await connection.fetch(NO_ROWS[problem]):
                raise CheckFailed(f"{problem}: {[tuple(row) for row in rows[:3]]} ({len(rows):,} rows)")
    finally:
        await connection.close()
