"""Settlements a second: a router and three cells on one machine, and a backlog of auctions that were won across them.

In each auction the auction, the winner and the seller have different cells, so that every settlement crosses all three.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import TypeAlias

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

Connections: TypeAlias = "Sequence[asyncpg.Connection[asyncpg.Record]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Traders:
    """Who takes part: people of each cell, who both sell and bid."""

    market: Market
    cells: Sequence[Member]
    people: dict[str, list[Person]]


@asynccontextmanager
async def traders_of(
    cluster: Cluster, names: Sequence[str] = tuple(cell.name for cell in CELLS)
) -> AsyncIterator[Traders]:
    """With people in each of the cells named; at the end the books are right."""
    cells = cluster.members[1:]
    async with Market(cluster.router) as market:
        people = {name: await settled_people(market, name) for name in names}
        yield Traders(market=market, cells=cells, people=people)
    await check_all({cell.name: await cell.dsn() for cell in cells})


async def measured(bench: Bench) -> AsyncIterator[Figure]:
    if NAME not in bench.wanted:
        return
    async with Cluster(None) as cluster, traders_of(cluster) as traders:
        rates = await cluster.while_alive(rounds(bench, traders))
    bids = [bids for figure in bench.figures if figure.name == YARDSTICK for bids in figure.extra["rounds"]]
    yield compared(NAME, "sagas/s", rates, "unary", bids, settlements=len(CELLS) * bench.scale.settlements_each)


async def settled_people(market: Market, cell: str) -> list[Person]:
    return await side_by_side(
        range(PEOPLE_EACH), lambda number: market.person(f"{cell} {number}", cell, FUNDS_MINOR, CURRENCY)
    )


async def rounds(bench: Bench, traders: Traders) -> list[float]:
    rates = []
    with bench.stage(NAME, bench.scale.rounds) as stage:
        for round_ in range(1, bench.scale.rounds + 1):
            rates.append(await rate(traders, bench.scale.settlements_each))
            bench.say(f"{NAME} {round_}: {rates[-1]:,.0f}/s")
            stage.advance()
    return rates


async def won_auctions(traders: Traders, count_each: int) -> list[OpenAuction]:
    """So many in each cell, each with one bid, from another cell."""
    names = [cell.name for cell in traders.cells]
    people = {name: cycle(traders.people[name]) for name in names}

    async def one(index: int) -> OpenAuction:
        here, sellers, bidders = (names[(index + step) % len(names)] for step in range(3))
        auction = await traders.market.open_auction(here, next(people[sellers]), "a lamp", CURRENCY, PRICE_MINOR)
        await traders.market.bid(next(people[bidders]), auction, CURRENCY, PRICE_MINOR)
        return auction

    return await side_by_side(range(count_each * len(names)), one)


async def rate(traders: Traders, each: int) -> float:
    """Settlements a second, from the first auction's end until all are through. Raises where one is not."""
    won = await won_auctions(traders, each)
    async with connected(traders.cells) as connections:
        settled_before = await auctions_settled(connections)
        began_s = time.monotonic()
        await side_by_side(won, traders.market.close)
        return len(won) / await settled_s(connections, settled_before + len(won), began_s)


async def settled_s(connections: Connections, count: int, began_s: float) -> float:
    """How long until every saga has ended and so many auctions are settled."""
    async with asyncio.timeout(WAIT_S):
        while await sagas_under_way(connections):  # noqa: ASYNC110 - they are other processes
            await asyncio.sleep(POLL_S)
    took_s = time.monotonic() - began_s
    assert await auctions_settled(connections) == count, "not every settlement went through"
    return took_s


@asynccontextmanager
async def connected(cells: Sequence[Member]) -> AsyncIterator[Connections]:
    """To the database of each cell."""
    connections = [await asyncpg.connect(await cell.dsn()) for cell in cells]
    try:
        yield connections
    finally:
        for connection in connections:
            await connection.close()


async def sagas_under_way(connections: Connections) -> bool:
    query = "SELECT EXISTS (SELECT FROM sagas WHERE status IN ('RUNNING', 'COMMITTED', 'COMPENSATING'))"
    return any([await connection.fetchval(query) for connection in connections])


async def auctions_settled(connections: Connections) -> int:
    query = "SELECT count(*) FROM auctions WHERE status = 'SETTLED'"
    return sum([await connection.fetchval(query) for connection in connections])
