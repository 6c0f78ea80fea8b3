"""How long stranded settlements take once a cut link is mended: so many at once, each of which needs the other side."""

import time
from collections.abc import AsyncIterator
from itertools import cycle

from lab.chaos.links import FAR, NEAR, ProxyLink
from lab.cluster import Cluster
from lab.market import OpenAuction
from lab.play import side_by_side
from tests.bench.measure import Bench
from tests.bench.report import Figure
from tests.bench.settlements import (
    CURRENCY,
    PRICE_MINOR,
    Connections,
    Traders,
    connected,
    settled_s,
    traders_of,
)

NAMES = {47: "recovery_47", 1_000: "recovery_1000", 10_000: "recovery_10000"}


async def measured(bench: Bench) -> AsyncIterator[Figure]:
    """Each on a cluster of its own: what is measured is not the size of a store."""
    for count, name in NAMES.items():
        if name in bench.wanted and count <= bench.scale.stranded_max:
            with bench.stage(name, 1) as stage:
                seconds = await recovery_s(count)
                stage.advance()
            bench.say(f"{name}: {seconds:.1f} s, {count / seconds:,.0f} settlements/s")
            yield Figure(name=name, value=seconds, unit="s", extra={"settlements": count})


async def recovery_s(count: int) -> float:
    """From the link's return until every saga has ended, all completed."""
    link = ProxyLink()
    await link.prepare()
    try:
        async with Cluster(None, plan=link.plan) as cluster, traders_of(cluster, (NEAR, FAR)) as traders:
            return await cluster.while_alive(stranded_and_freed(traders, link, count))
    finally:
        await link.close()


async def stranded_and_freed(traders: Traders, link: ProxyLink, count: int) -> float:
    won = await won_across(traders, count)
    async with connected(traders.cells) as connections:
        await link.cut()
        await side_by_side(won, traders.market.close)
        assert await stranded(connections) == count
        await link.mend()
        return await settled_s(connections, count, time.monotonic())


async def won_across(traders: Traders, count: int) -> list[OpenAuction]:
    """Auctions of one end of the link, won from the other; half of them each way."""
    people = {name: cycle(each) for name, each in traders.people.items()}

    async def one(index: int) -> OpenAuction:
        here, there = (NEAR, FAR) if index % 2 else (FAR, NEAR)
        auction = await traders.market.open_auction(here, next(people[here]), "a lamp", CURRENCY, PRICE_MINOR)
        await traders.market.bid(next(people[there]), auction, CURRENCY, PRICE_MINOR)
        return auction

    auctions = await side_by_side(range(count), one)
    await traders.market.wait_until_quiet()
    return auctions


async def stranded(connections: Connections) -> int:
    """Settlements that have begun, and got nowhere."""
    query = "SELECT count(*) FROM sagas WHERE status = 'RUNNING' AND state::jsonb->'facts' ? 'winner_id'"
    return sum([await connection.fetchval(query) for connection in connections])
