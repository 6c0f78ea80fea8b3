"""The figures of the write path: bids in batches and one by one, grouped and not, spread and in one auction."""

from collections.abc import AsyncIterator
from dataclasses import replace

from tests.bench import cpu, pgbench, subscribers, watchers
from tests.bench.calls import Bids
from tests.bench.checks import check
from tests.bench.cluster import Side, last_position, side
from tests.bench.measure import BATCH_ITEMS, BATCHES_IN_FLIGHT, TURN, Bench, Bidding
from tests.bench.processes import echo
from tests.bench.report import Figure

NAMES = ("batch_bids", "unary_bids", "unary_grouped", "hot_auction", cpu.NAME, subscribers.NAME, watchers.NAME)
UNARY_IN_FLIGHT = 64
WAYS = (
    cpu.Way(name="batch", items=BATCH_ITEMS, in_flight=BATCHES_IN_FLIGHT, turn=TURN, times=4),
    cpu.Way(name="unary", items=0, in_flight=UNARY_IN_FLIGHT, turn=TURN),
)


async def measured(bench: Bench) -> AsyncIterator[Figure]:
    """All on one dataset."""
    if not bench.wanted & set(NAMES):
        return
    scale = bench.scale
    async with side(bench.ground, "writes", bench.console, users=scale.users, auctions=scale.auctions) as ours:
        if "batch_bids" in bench.wanted:
            yield await batch_bids(bench, ours)
        if "unary_bids" in bench.wanted:
            yield await unary_bids(bench, ours)
        if cpu.NAME in bench.wanted:
            async for figure in cpu.figures(bench, ours, WAYS):
                yield figure
        if "unary_grouped" in bench.wanted:
            yield await unary_grouped(bench, ours)
        if "hot_auction" in bench.wanted:
            yield await hot_auction(bench, ours)
        if subscribers.NAME in bench.wanted:
            yield await subscribers.figure(bench, ours)
        if watchers.NAME in bench.wanted:
            yield await watchers.figure(bench, ours)
        with bench.stage("checking the books", 1):
            await check(ours.postgres, ours.dataset)


def in_batches(bench: Bench, side: Side, turn: int = TURN) -> Bidding:
    return bench.bidding(side, BATCHES_IN_FLIGHT, lambda: side.dataset.spread(BATCH_ITEMS, turn=turn))


async def batch_bids(bench: Bench, ours: Side) -> Figure:
    with bench.stage("pgbench's tables", 1):
        await pgbench.prepare(ours.postgres)

    async def tps() -> float:
        return await pgbench.best_tps(ours.postgres, bench.scale.seconds)

    before, bids_before = await last_position(ours.postgres), ours.dataset.bids
    figure = await bench.beside("batch_bids", in_batches(bench, ours), "TPC-B", tps)
    events_per_bid = (await last_position(ours.postgres) - before) / (ours.dataset.bids - bids_before)
    return replace(figure, extra={**figure.extra, "events_per_bid": events_per_bid})


async def unary_bids(bench: Bench, ours: Side) -> Figure:
    def one_by_one() -> Bids:
        return ours.dataset.spread(0, turn=TURN)

    unary = bench.bidding(ours, UNARY_IN_FLIGHT, one_by_one)
    await unary()
    async with echo(unary.results.pop().answer_bytes) as echo_address:

        async def echoes_per_s() -> float:
            return (await bench.load(echo_address, one_by_one(), in_flight=UNARY_IN_FLIGHT)).per_s

        return await bench.beside("unary_bids", unary, "echo", echoes_per_s)


async def unary_grouped(bench: Bench, ours: Side) -> Figure:
    """Beside a second cell, whose transactions take one command each: a dataset a tenth as large, on both sides."""
    users, auctions = bench.scale.users // 10, bench.scale.auctions // 10
    async with side(
        bench.ground, "ungrouped", bench.console, users=users, auctions=auctions, batch_max="1"
    ) as ungrouped:
        grouped = bench.bidding(ours, UNARY_IN_FLIGHT, lambda: ours.dataset.spread(0, auctions=auctions, turn=TURN))
        ones = bench.bidding(ungrouped, UNARY_IN_FLIGHT, lambda: ungrouped.dataset.spread(0, turn=TURN))
        return await bench.beside("unary_grouped", grouped, "alone", ones)


async def hot_auction(bench: Bench, ours: Side) -> Figure:
    """Everybody outbids the one before. In batches: one by one it would be the calls that are measured."""
    in_one = bench.bidding(ours, BATCHES_IN_FLIGHT, lambda: ours.dataset.in_one(BATCH_ITEMS, turn=1))
    return await bench.beside("hot_auction", in_one, "spread", in_batches(bench, ours, turn=1))
