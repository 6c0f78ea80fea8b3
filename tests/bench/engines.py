"""Settlements by the native engine and by a Temporal development server, in turns, in one run on one machine.

Two clusters of a router and three cells each; only one of them works at a time. A round closes auctions that were won
across cells, all together, and waits until every saga is through.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from lab.cluster import Cluster, four
from lab.member import Member
from tests.bench.measure import Bench
from tests.bench.report import Figure, compared, quantile
from tests.bench.settlements import Traders, connected, rate, traders_of
from tests.temporal_server import address_of, temporal_server

ENGINES = ("native", "temporal")
NAME = "engines"
SETTLEMENTS_MS = """
    SELECT ended.hlc_physical - begun.hlc_physical FROM event_store begun JOIN event_store ended USING (aggregate_id)
    WHERE begun.event_type = 'SAGA_STARTED' AND ended.event_type = 'SAGA_COMPLETED'
    AND begun.payload->'facts' ? 'winner_id'
"""


@asynccontextmanager
async def trading(engine: str, temporal_address: str) -> AsyncIterator[Traders]:
    def plan(data: Path, ports: Sequence[int]) -> list[Member]:
        members = four(data, ports)
        for member in members[1:]:
            member.settings |= {"saga_engine": engine, "temporal_address": temporal_address}
        return members

    async with Cluster(None, plan=plan) as cluster, traders_of(cluster) as made:
        yield made


async def measured(bench: Bench) -> AsyncIterator[Figure]:
    if NAME not in bench.wanted:
        return
    each = bench.scale.engine_settlements_each
    async with AsyncExitStack() as stack:
        address = address_of(await stack.enter_async_context(temporal_server()))
        traders = {engine: await stack.enter_async_context(trading(engine, address)) for engine in ENGINES}
        values, yardsticks = await bench.in_turns(
            NAME, lambda: rate(traders["native"], each), lambda: rate(traders["temporal"], each)
        )
        lasted = {engine: await durations_ms(traders[engine]) for engine in ENGINES}
    extra = {
        f"{prefix}p{share}_ms": quantile(lasted[engine], share / 100)
        for engine, prefix in (("native", ""), ("temporal", "temporal_"))
        for share in (50, 99)
    }
    yield compared(NAME, "sagas/s", values, "Temporal", yardsticks, **extra)


async def durations_ms(traders: Traders) -> list[int]:
    """Of every settlement of theirs, from its first event to its last, by the logs of the cells that drove them."""
    async with connected(traders.cells) as connections:
        return [row[0] for connection in connections for row in await connection.fetch(SETTLEMENTS_MS)]
