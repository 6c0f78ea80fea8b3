"""How fast a cell's tables are compared with its log: what PostgreSQL can sum, and a replay of every event.

On a store of its own that stands still: made by the cell's own writer, in this process.
"""

import time
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from statistics import median
from uuid import UUID

import asyncpg

from cells.audit.reconcile.findings import Order, Progress
from cells.domain.commands import Command, PlaceBid
from cells.domain.values import Money
from cells.uuids import uuid_from
from server.audit.process import ChildPasses
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.bench.calls import user_id
from tests.bench.checks import CheckFailed
from tests.bench.cluster import CELL, DATABASE, Dataset, last_position, settled
from tests.bench.founding import execute, leading
from tests.bench.measure import Bench
from tests.bench.report import Figure
from tests.invariants import NO_ROWS

SQL, FOLD = "reconcile_sql", "reconcile_fold"
# Each goes over all that the log says of money.
SUMS = (
    "postings of an event do not sum to zero",
    "a balance is not the sum of its postings",
    "a house balance is not the sum of its postings",
    "account entries do not add up",
)


async def measured(bench: Bench) -> AsyncIterator[Figure]:
    if not bench.wanted & {SQL, FOLD}:
        return
    async with bench.ground.postgres("books") as postgres:
        dataset = await settled(postgres, bench.console, users=bench.scale.users, auctions=bench.scale.auctions)
        with bench.stage(f"{bench.scale.reconciled_bids:,} bids", bench.scale.reconciled_bids) as stage:
            async with leading(CELL, postgres.dsn(DATABASE)) as cell:
                await execute(cell, islice(bids(dataset), bench.scale.reconciled_bids), stage.advance)
        events = await last_position(postgres)
        if SQL in bench.wanted:
            yield await summed(bench, postgres, events)
        if FOLD in bench.wanted:
            yield await replayed(bench, postgres, events)


def bids(dataset: Dataset) -> Iterator[Command]:
    """Everybody bids everywhere, each a little more than the last one there."""
    auctions = [UUID(name.rpartition("/")[2]) for name in dataset.auctions]
    amount_minor = 0
    while True:
        amount_minor += 1
        for number, auction_id in enumerate(auctions):
            bidder = uuid_from(user_id((number * 7 + amount_minor * 31) % dataset.users))
            amount = Money("USD", amount_minor)
            yield PlaceBid(auction_id=auction_id, auction_cell=CELL, bidder_id=bidder, amount=amount)


async def summed(bench: Bench, postgres: EmbeddedPostgres, events: int) -> Figure:
    """Events a second through each of the sums: the slowest of them counts."""
    connection = await asyncpg.connect(postgres.dsn(DATABASE))
    rates: dict[str, list[float]] = {name: [] for name in SUMS}
    try:
        # As autovacuum leaves it.
        await connection.execute("VACUUM ANALYZE")
        with bench.stage(SQL, bench.scale.rounds * len(SUMS)) as stage:
            for _ in range(bench.scale.rounds):
                for name in SUMS:
                    began_s = time.monotonic()
                    if rows := await connection.fetch(NO_ROWS[name]):
                        raise CheckFailed(f"{name}: {len(rows):,} rows")
                    rates[name].append(events / (time.monotonic() - began_s))
                    stage.advance()
    finally:
        await connection.close()
    medians = {name: median(each) for name, each in rates.items()}
    for name, rate in medians.items():
        bench.say(f"{name}: {rate:,.0f} events/s")
    return Figure(name=SQL, value=min(medians.values()), unit="events/s", extra={"events": events, **medians})


async def replayed(bench: Bench, postgres: EmbeddedPostgres, events: int) -> Figure:
    """A full pass in a process of its own, up to where all states are compared; and how long the next one takes."""
    passes, rates, ended_s = ChildPasses(dsn=postgres.dsn(DATABASE), cell=CELL), [], 0.0

    def tell(progress: Progress) -> None:
        nonlocal ended_s
        if progress.stage == "states" and progress.done == progress.total:
            ended_s = time.monotonic()

    with bench.stage(FOLD, bench.scale.rounds) as stage:
        for _ in range(bench.scale.rounds):
            began_s = time.monotonic()
            report = await passes.run(Order(full=True), tell)
            if report.findings_count:
                raise CheckFailed(f"{report.findings_count:,} mismatches, first {report.findings[0]}")
            rates.append(events / (ended_s - began_s))
            stage.advance()
    again = await passes.run(Order(), tell)
    extra = {"events": events, "rounds": rates, "whole_pass_s": report.took_ms / 1_000, "next_s": again.took_ms / 1_000}
    return Figure(name=FOLD, value=median(rates), unit="events/s", extra=extra)
