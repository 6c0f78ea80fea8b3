"""Settlements by the native engine and by a Temporal development server, in turns, in one run on one machine.

Two towns of a router and three cells each; only one of them works at a time. A round closes auctions that were won
across cells, all together, and waits until every saga is through.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from lab.cluster import Cluster, four
from lab.member import Member
from tests.bench.measure import Bench
from tests.bench.report import Figure, compared, quantile
from tests.bench.settlements import Town, connected, rate, town_of
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

    async with Cluster(None, plan=plan) as cluster, town_of(cluster) as made:
        yield made


async def measured(bench: Bench) -> AsyncIterator[Figure]:
    if NAME not in bench.wanted:
        return
    each = bench.scale.engine_settlements_each
    async with AsyncExitStack() as stack:
        address = address_of(await stack.enter_async_context(temporal_server()))
        towns = {engine: await stack.enter_async_context(town(engine, address)) for engine in ENGINES}
        values, yardsticks = await bench.in_turns(
            NAME, lambda: rate(towns["native"], each), lambda: rate(towns["temporal"], each)
        )
        lasted = {engine: await durations_ms(towns[engine]) for engine in ENGINES}
    extra = {
        f"{prefix}p{share}_ms": quantile(lasted[engine], share / 100)
        for engine, prefix in (("native", ""), ("temporal", "temporal_"))
        for share in (50, 99)
    }
    yield compared(NAME, "sagas/s", values, "Temporal", yardsticks, **extra)


async def durations_ms(town: Town) -> list[int]:
    """Of every settlement of a town, from its first event to its last, by the logs of the cells that drove them."""
    async with connected(town.cells) as connections:
        return [row[0] for connection in connections for row in await connection.fetch(SETTLEMENTS_MS)]
