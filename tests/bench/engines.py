"""Settlements by the native engine and by a Temporal development server, in turns, in one run on one machine.

Two towns of a router and three cells each; only one of them works at a time. A round closes auctions that were won
across cells, all together, and waits until every saga is through.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg

from lab.cluster import Cluster, four
from lab.market import Market
from lab.member import Member
from tests.bench.measure import Bench
from tests.bench.report import Figure, compared, quantile
from tests.bench.settlements import Town, settle_s, settled_people, won_auctions
from tests.invariants import check_all
from tests.temporal_server import address_of, temporal_server

ENGINES = ("native", "temporal")
NAME = "engines"
SETTLEMENTS_MS = """
    SELECT ended.hlc_physical - begun.hlc_physical FROM event_store begun JOIN event_store ended USING (aggregate_id)
    WHERE begun.event_type = 'SAGA_STARTED' AND ended.event_type = 'SAGA_COMPLETED'
    AND begun.payload->'facts' ? 'winner_id'
"""


@asynccontextmanager
async def town(engine: str, temporal_address: str) -> AsyncIterator[Town]:
    def plan(data: Path, ports: Sequence[int]) -> list[Member]:
        members = four(data, ports)
        for member in members[1:]:
            member.settings |= {"saga_engine": engine, "temporal_address": temporal_address}
        return members

    async with Cluster(None, plan=plan) as cluster, Market(cluster.router) as market:
        cells = cluster.members[1:]
        people = {cell.name: await settled_people(market, cell.name) for cell in cells}
        yield Town(market=market, cells=cells, people=people)
        await check_all({cell.name: await cell.dsn() for cell in cells})


async def rate(town: Town, each: int) -> float:
    won = await won_auctions(town, each)
    return len(won) / await settle_s(town, won)


async def measured(bench: Bench) -> AsyncIterator[Figure]:
    if NAME not in bench.wanted:
        return
    rates: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    async with AsyncExitStack() as stack:
        address = address_of(await stack.enter_async_context(temporal_server()))
        towns = {engine: await stack.enter_async_context(town(engine, address)) for engine in ENGINES}
        with bench.stage(NAME, bench.scale.rounds) as stage:
            for round_ in range(1, bench.scale.rounds + 1):
                for engine in ENGINES:
                    rates[engine].append(await rate(towns[engine], bench.scale.engine_settlements_each))
                told = ", ".join(f"{engine} {rates[engine][-1]:.1f}/s" for engine in ENGINES)
                bench.say(f"{NAME} {round_}: {told}")
                stage.advance()
        lasted = {engine: await durations_ms(towns[engine]) for engine in ENGINES}
    extra = {
        f"{prefix}p{share}_ms": quantile(lasted[engine], share / 100)
        for engine, prefix in (("native", ""), ("temporal", "temporal_"))
        for share in (50, 99)
    }
    yield compared(NAME, "sagas/s", rates["native"], "Temporal", rates["temporal"], **extra)


async def durations_ms(town: Town) -> list[int]:
    """Of every settlement of a town, from its first event to its last, by the logs of the cells that drove them."""
    found: list[int] = []
    for cell in town.cells:
        connection = await asyncpg.connect(await cell.dsn())
        found += [row[0] for row in await connection.fetch(SETTLEMENTS_MS)]
        await connection.close()
    return found
