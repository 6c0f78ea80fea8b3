"""The figures of the write path: bids in batches and one by one, grouped and not, spread and in one auction."""

from collections.abc import AsyncIterator
from statistics import median

from server.shell.postgres.embedded import EmbeddedPostgres
from tests.bench import cpu, pgbench, subscribers, watchers
from tests.bench.checks import check
from tests.bench.cluster import Side, Town, last_position, settled
from tests.bench.load import Result
from tests.bench.measure import Bench
from tests.bench.processes import echo
from tests.bench.report import Figure, compared

NAMES = ("batch_bids", "unary_bids", "unary_grouped", "hot_auction", cpu.NAME, subscribers.NAME, watchers.NAME)
# Two events a bid, but for the first of each turn, which outbids somebody and has three.
TURN = 10
BATCH_ITEMS, BATCHES_IN_FLIGHT = 125, 8
UNARY_IN_FLIGHT = 64
WAYS = (
    cpu.Way(name="batch", items=BATCH_ITEMS, in_flight=BATCHES_IN_FLIGHT, turn=TURN, times=4),
    cpu.Way(name="unary", items=0, in_flight=UNARY_IN_FLIGHT, turn=TURN),
)


async def measured(bench: Bench) -> AsyncIterator[Figure]:
    """All of one town."""
    if not bench.wanted & set(NAMES):
        return
    async with bench.ground.postgres("writes") as postgres:
        town = await settled(postgres, bench.console, users=bench.scale.users, auctions=bench.scale.auctions)
        async with bench.ground.server("cell", postgres) as server:
            if "batch_bids" in bench.wanted:
                yield await batch_bids(bench, town, server.address, postgres)
            if "unary_bids" in bench.wanted:
                yield await unary_bids(bench, town, server.address)
            if cpu.NAME in bench.wanted:
                async for figure in cpu.figures(bench, Side(town=town, server=server, postgres=postgres), WAYS):
                    yield figure
            if "unary_grouped" in bench.wanted:
                yield await unary_grouped(bench, town, server.address)
            if "hot_auction" in bench.wanted:
                yield await hot_auction(bench, town, server.address)
            if subscribers.NAME in bench.wanted:
                yield await subscribers.figure(bench, town, server.address, postgres)
            if watchers.NAME in bench.wanted:
                yield await watchers.figure(bench, Side(town=town, server=server, postgres=postgres))
            with bench.stage("checking the books", 1):
                await check(postgres, town)


async def batch_bids(bench: Bench, town: Town, address: str, postgres: EmbeddedPostgres) -> Figure:
    with bench.stage("pgbench's tables", 1):
        await pgbench.prepare(postgres)
    results: list[Result] = []

    async def bids_per_s() -> float:
        bids = town.spread(BATCH_ITEMS, turn=TURN)
        results.append(await bench.bid(town, address, bids, in_flight=BATCHES_IN_FLIGHT))
        return results[-1].per_s

    async def tps() -> float:
        return await pgbench.best_tps(postgres, bench.scale.seconds)

    before, bids_before = await last_position(postgres), town.bids
    values, yardsticks = await bench.in_turns("batch_bids", bids_per_s, tps)
    events_per_bid = (await last_position(postgres) - before) / (town.bids - bids_before)
    return compared("batch_bids", "bids/s", values, "TPC-B", yardsticks, **told(results), events_per_bid=events_per_bid)


async def unary_bids(bench: Bench, town: Town, address: str) -> Figure:
    results: list[Result] = []

    async def bids_per_s() -> float:
        results.append(await bench.bid(town, address, town.spread(0, turn=TURN), in_flight=UNARY_IN_FLIGHT))
        return results[-1].per_s

    await bids_per_s()
    async with echo(results.pop().answer_bytes) as echo_address:

        async def echoes_per_s() -> float:
            return (await bench.load(echo_address, town.spread(0, turn=TURN), in_flight=UNARY_IN_FLIGHT)).per_s

        values, yardsticks = await bench.in_turns("unary_bids", bids_per_s, echoes_per_s)
    return compared("unary_bids", "bids/s", values, "echo", yardsticks, **told(results))


async def unary_grouped(bench: Bench, town: Town, address: str) -> Figure:
    """Beside a second cell, whose transactions take one command each: a town a tenth as large, on both sides."""
    users, auctions = bench.scale.users // 10, bench.scale.auctions // 10
    results: list[Result] = []
    async with bench.ground.postgres("ungrouped") as postgres:
        ones = await settled(postgres, bench.console, users=users, auctions=auctions)
        async with bench.ground.server("one-by-one", postgres, batch_max="1") as server:

            async def grouped_per_s() -> float:
                bids = town.spread(0, auctions=auctions, turn=TURN)
                results.append(await bench.bid(town, address, bids, in_flight=UNARY_IN_FLIGHT))
                return results[-1].per_s

            async def one_by_one_per_s() -> float:
                return (
                    await bench.bid(ones, server.address, ones.spread(0, turn=TURN), in_flight=UNARY_IN_FLIGHT)
                ).per_s

            values, yardsticks = await bench.in_turns("unary_grouped", grouped_per_s, one_by_one_per_s)
    return compared("unary_grouped", "bids/s", values, "alone", yardsticks, **told(results))


async def hot_auction(bench: Bench, town: Town, address: str) -> Figure:
    """Everybody outbids the one before. In batches: one by one it would be the calls that are measured."""
    results: list[Result] = []

    async def in_one_per_s() -> float:
        bids = town.in_one(BATCH_ITEMS, turn=1)
        results.append(await bench.bid(town, address, bids, in_flight=BATCHES_IN_FLIGHT))
        return results[-1].per_s

    async def spread_per_s() -> float:
        bids = town.spread(BATCH_ITEMS, turn=1)
        return (await bench.bid(town, address, bids, in_flight=BATCHES_IN_FLIGHT)).per_s

    values, yardsticks = await bench.in_turns("hot_auction", in_one_per_s, spread_per_s)
    return compared("hot_auction", "bids/s", values, "spread", yardsticks, **told(results))


def told(results: list[Result]) -> dict[str, float]:
    """Of the rounds: how long calls took, and how many bids did not come through at once."""
    quantiles = {f"p{share}_ms": median(each.quantile_ms(share / 100) for each in results) for share in (50, 99)}
    again = {name: sum(getattr(each, name) for each in results) for name in ("turned_away", "overtaken")}
    return {**quantiles, **again}
