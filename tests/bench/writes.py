"""The figures of the write path: bids in batches and one by one, grouped and not, spread and in one auction."""

from collections.abc import AsyncIterator
from statistics import median

from server.shell.postgres import EmbeddedPostgres
from tests.bench import pgbench
from tests.bench.load import Result
from tests.bench.measure import Bench
from tests.bench.processes import echo
from tests.bench.report import Figure, compared
from tests.bench.town import Town, settle

NAMES = ("batch_bids", "unary_bids", "unary_grouped", "hot_auction")
# Two events a bid, but for the first of each turn, which outbids somebody and has three.
TURN = 10
BATCH_ITEMS, BATCHES_IN_FLIGHT = 250, 8
UNARY_IN_FLIGHT = 64


async def measured(bench: Bench) -> AsyncIterator[Figure]:
    """All of one town."""
    if not bench.wanted & set(NAMES):
        return
    async with bench.ground.postgres("writes") as postgres, bench.ground.server("cell", postgres) as server:
        with bench.progress.stage("a town of 10,000 users and 1,000 auctions", 1):
            town = await settle(server.address, users=bench.scale.users, auctions=bench.scale.auctions)
        if "batch_bids" in bench.wanted:
            yield await batch_bids(bench, town, postgres)
        if "unary_bids" in bench.wanted:
            yield await unary_bids(bench, town)


async def batch_bids(bench: Bench, town: Town, postgres: EmbeddedPostgres) -> Figure:
    with bench.progress.stage("pgbench's tables", 1):
        await pgbench.prepare(postgres)
    results: list[Result] = []

    async def bids_per_s() -> float:
        bids = town.spread(BATCH_ITEMS, turn=TURN)
        results.append(await bench.load(town.address, bids, in_flight=BATCHES_IN_FLIGHT))
        return results[-1].per_s

    async def tps() -> float:
        return await pgbench.best_tps(postgres, bench.scale.seconds)

    values, yardsticks = await bench.in_turns("batch_bids", bids_per_s, tps)
    return compared("batch_bids", "bids/s", values, "TPC-B tps", yardsticks, **told(results))


async def unary_bids(bench: Bench, town: Town) -> Figure:
    results: list[Result] = []

    async def bids_per_s() -> float:
        results.append(await bench.load(town.address, town.spread(0, turn=TURN), in_flight=UNARY_IN_FLIGHT))
        return results[-1].per_s

    await bids_per_s()
    async with echo(results.pop().answer_bytes) as address:

        async def echoes_per_s() -> float:
            return (await bench.load(address, town.spread(0, turn=TURN), in_flight=UNARY_IN_FLIGHT)).per_s

        values, yardsticks = await bench.in_turns("unary_bids", bids_per_s, echoes_per_s)
    return compared("unary_bids", "bids/s", values, "echoes/s", yardsticks, **told(results))


def told(results: list[Result]) -> dict[str, float]:
    """Of the rounds: how long calls took, and how many bids had to be sent again."""
    quantiles = {f"p{share}_ms": median(each.quantile_ms(share / 100) for each in results) for share in (50, 99)}
    return {**quantiles, "turned_away": sum(each.turned_away for each in results)}
