"""Bids in one auction that many watch, and in the same one unwatched: what the cell's CPU makes of a second."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.bench.cluster import Side
from tests.bench.cpu import cpu_s
from tests.bench.load import LoadFailed, Plan
from tests.bench.measure import BATCH_ITEMS, BATCHES_IN_FLIGHT, Bench
from tests.bench.processes import python
from tests.bench.report import Figure, compared

NAME = "watched_bids"
WATCHERS = 2_000
# Of Scale.cpu_bids: updates come every two seconds.
TIMES = 10


async def figure(bench: Bench, side: Side) -> Figure:
    updates: list[int] = []

    async def bids_per_cpu_s() -> float:
        plan = Plan(
            address=side.server.address,
            bids=side.dataset.in_one(BATCH_ITEMS, turn=1),
            in_flight=BATCHES_IN_FLIGHT,
            bids_each=TIMES * bench.scale.cpu_bids / BATCHES_IN_FLIGHT,
        )
        before_s = cpu_s(side.server.pid)
        placed = (await bench.generator.run(plan)).placed
        side.dataset.bids += placed
        return placed / (cpu_s(side.server.pid) - before_s)

    async def watched_bids_per_cpu_s() -> float:
        async with watched(side, updates):
            return await bids_per_cpu_s()

    await bids_per_cpu_s()
    values, yardsticks = await bench.in_turns(NAME, watched_bids_per_cpu_s, bids_per_cpu_s)
    each = sum(updates) / len(updates) / WATCHERS
    return compared(NAME, "bids/CPU s", values, "alone", yardsticks, watchers=WATCHERS, updates_each=each)


@asynccontextmanager
async def watched(side: Side, updates: list[int]) -> AsyncIterator[None]:
    """All watchers are there until the end, in a process of their own; then `updates` has how many came."""
    async with python("tests.bench.watching", side.server.address, side.dataset.hot, str(WATCHERS)) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if (await process.stdout.readline()).strip() != b"watching":
            raise LoadFailed("the watchers ended")
        yield
        process.stdin.write(b"\n")
        updates.append(int(await process.stdout.readline()))
