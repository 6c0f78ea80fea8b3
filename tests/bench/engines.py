"""Settlements by the native engine and by a Temporal development server, in turns, in one run on one machine.

    python -m tests.bench.engines [--each 50] [--rounds 3] [--lone 10]

Two towns of a router and three cells each; only one of them works at a time. A round closes auctions that were won
across cells, all together, and waits until every saga is through; a lone settlement has its town for itself.
"""

import argparse
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median

import asyncpg
import uvloop

from server.cli.cluster import Cluster, Member, four
from server.cli.market import Market
from server.shell.logging import configure_logging
from tests.bench.settlements import Town, settle_s, settled_people, won_auctions
from tests.invariants import check_all
from tests.temporal_server import address_of, temporal_server

ENGINES = ("native", "temporal")
LAST_SETTLEMENT_MS = """
    SELECT ended.hlc_physical - begun.hlc_physical FROM event_store begun JOIN event_store ended USING (aggregate_id)
    WHERE begun.event_type = 'SAGA_STARTED' AND ended.event_type = 'SAGA_COMPLETED'
    AND begun.payload->'facts' ? 'winner_id'
    ORDER BY ended.position DESC LIMIT 1
"""


@asynccontextmanager
async def town(engine: str, temporal_address: str) -> AsyncIterator[Town]:
    def plan(data: Path, ports: Sequence[int]) -> list[Member]:
        members = four(data, ports)
        for member in members[1:]:
            member.settings |= {"saga_engine": engine, "temporal_address": temporal_address}
        return members

    async with Cluster(None, port_base=None, plan=plan) as cluster, Market(cluster.router) as market:
        cells = cluster.members[1:]
        people = {cell.name: await settled_people(market, cell.name) for cell in cells}
        yield Town(market=market, cells=cells, people=people)
        await check_all({cell.name: await cell.dsn() for cell in cells})


async def rate(town: Town, each: int) -> float:
    won = await won_auctions(town, each)
    return len(won) / await settle_s(town, won)


async def lone_ms(town: Town) -> float:
    """From the saga's first event to its last, by the log of the cell that drove it."""
    (won, *_) = await won_auctions(town, 1)
    await settle_s(town, [won])
    cell = next(cell for cell in town.cells if cell.name == won.cell)
    connection = await asyncpg.connect(await cell.dsn())
    try:
        return float(await connection.fetchval(LAST_SETTLEMENT_MS))
    finally:
        await connection.close()


async def run(each: int, rounds: int, lone: int) -> None:
    rates: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    alone_ms: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    async with AsyncExitStack() as stack:
        address = address_of(await stack.enter_async_context(temporal_server()))
        towns = {engine: await stack.enter_async_context(town(engine, address)) for engine in ENGINES}
        for _ in range(rounds):
            for engine in ENGINES:
                rates[engine].append(await rate(towns[engine], each))
                print(f"{engine}: {rates[engine][-1]:.1f} settlements/s", flush=True)
        for _ in range(lone):
            for engine in ENGINES:
                alone_ms[engine].append(await lone_ms(towns[engine]))
    for engine in ENGINES:
        print(f"{engine}: {median(rates[engine]):.1f} settlements/s, a lone one in {median(alone_ms[engine]):.0f} ms")
    print(f"native is {median(rates['native']) / median(rates['temporal']):.1f} times as fast")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.engines", description="Measures both saga engines.")
    parser.add_argument("--each", type=int, default=50, help="settlements that each cell has in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lone", type=int, default=10, help="settlements one by one")
    chosen = parser.parse_args()
    configure_logging("warning")
    uvloop.run(run(chosen.each, chosen.rounds, chosen.lone))


if __name__ == "__main__":
    main()
