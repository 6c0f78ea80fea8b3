"""Settlements a second: a router and three cells on one machine, and a backlog of auctions that were won across them.

In each auction the auction, the winner and the seller have different cells, so that every settlement crosses all three.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import cycle

import asyncpg

from lab.cluster import CELLS, Cluster
from lab.market import Market, OpenAuction, Person
from lab.member import Member
from lab.play import side_by_side
from tests.bench.measure import Bench
from tests.bench.report import Figure, compared
from tests.invariants import check_all

NAME, YARDSTICK = "settlements", "unary_bids"
CURRENCY, FUNDS_MINOR, PRICE_MINOR = "USD", 10**9, 10**4
PEOPLE_EACH = 50
WAIT_S = 300.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Town:
    """Who takes part: people of each cell, who both sell and bid."""

    market: Market
    cells: Sequence[Member]
    people: dict[str, list[Person]]


async def measured(bench: Bench) -> AsyncIterator[Figure]:
    if NAME not in bench.wanted:
        return
    async with Cluster(None) as cluster, Market(cluster.router) as market:
        cells = cluster.members[1:]
        with bench.stage("a router and three cells", PEOPLE_EACH * len(CELLS)) as stage:
            people = {cell.name: await settled_people(market, cell.name) for cell in cells}
            stage.left(0)
        town = Town(market=market, cells=cells, people=people)
        rates = await cluster.while_alive(rounds(bench, town))
        await check_all({cell.name: await cell.dsn() for cell in cells})
    bids = [bids for figure in bench.figures if figure.name == YARDSTICK for bids in figure.extra["rounds"]]
    yield compared(NAME, "sagas/s", rates, "unary", bids, settlements=len(CELLS) * bench.scale.settlements_each)


async def settled_people(market: Market, cell: str) -> list[Person]:
    return await side_by_side(
        range(PEOPLE_EACH), lambda number: market.person(f"{cell} {number}", cell, FUNDS_MINOR, CURRENCY)
    )


async def rounds(bench: Bench, town: Town) -> list[float]:
    rates = []
    with bench.stage(NAME, bench.scale.rounds) as stage:
        for round_ in range(1, bench.scale.rounds + 1):
            won = await won_auctions(town, bench.scale.settlements_each)
            rates.append(len(won) / await settle_s(town, won))
            bench.say(f"{NAME} {round_}: {rates[-1]:,.0f}/s")
            stage.advance()
    return rates


async def won_auctions(town: Town, count_each: int) -> list[OpenAuction]:
    """So many in each cell, each with one bid, from another cell."""
    names = [cell.name for cell in town.cells]
    people = {name: cycle(town.people[name]) for name in names}

    async def one(index: int) -> OpenAuction:
        here, sellers, bidders = (names[(index + step) % len(names)] for step in range(3))
        auction = await town.market.open_auction(here, next(people[sellers]), "a lamp", CURRENCY, PRICE_MINOR)
        await town.market.bid(next(people[bidders]), auction, CURRENCY, PRICE_MINOR)
        return auction

    return await side_by_side(range(count_each * len(names)), one)


async def settle_s(town: Town, won: Sequence[OpenAuction]) -> float:
    """How long from the first auction's end until all settlements are through. Raises where one is not."""
    connections = [await asyncpg.connect(await cell.dsn()) for cell in town.cells]
    try:
        settled_before = await auctions_settled(connections)
        began_s = time.monotonic()
        await side_by_side(won, town.market.close)
        async with asyncio.timeout(WAIT_S):
            while await sagas_under_way(connections):  # noqa: ASYNC110 - they are other processes
                await asyncio.sleep(POLL_S)
        took_s = time.monotonic() - began_s
        assert await auctions_settled(connections) - settled_before == len(won), "not every settlement went through"
    finally:
        for connection in connections:
            await connection.close()
    return took_s


async def sagas_under_way(connections: "Sequence[asyncpg.Connection[asyncpg.Record]]") -> bool:
    query = "SELECT EXISTS (SELECT FROM sagas WHERE status IN ('RUNNING', 'COMMITTED', 'COMPENSATING'))"
    return any([await connection.fetchval(query) for connection in connections])


async def auctions_settled(connections: "Sequence[asyncpg.Connection[asyncpg.Record]]") -> int:
    query = "SELECT count(*) FROM auctions WHERE status = 'SETTLED'"
    return sum([await connection.fetchval(query) for connection in connections])
