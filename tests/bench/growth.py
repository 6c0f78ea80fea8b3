"""The figures of a store that has grown: memory, bids beside an empty store, and a standby that takes over.

One store serves all three. A user's first events are the account and a deposit; then every user bids, over gRPC, which
is the load that resident memory is measured after, until the store has the events that are wanted.
"""

import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from statistics import median

from lab.member import Member
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.bench import past, takeover
from tests.bench.checks import check
from tests.bench.cluster import Dataset, Side, last_position, settled, side
from tests.bench.load import Plan
from tests.bench.measure import BATCH_ITEMS, BATCHES_IN_FLIGHT, TURN, Bench
from tests.bench.report import Figure
from tests.bench.scale import FULL

NAMES = frozenset({"resident_memory", "grown_store", "takeover", past.NAME})
# Of each client, between two looks at how far it has come.
STRETCH_BIDS_EACH = 20 * BATCH_ITEMS
KIB_PER_MIB = 1024


async def measured(bench: Bench) -> AsyncIterator[Figure]:
    if not bench.wanted & NAMES:
        return
    scale = bench.scale
    async with bench.ground.postgres("grown") as postgres:
        dataset = await settled(postgres, bench.console, users=scale.grown_users, auctions=scale.auctions)
        async with bench.ground.server("grown-cell", postgres) as server:
            before_mib = resident_mib(server)
            events = await grow(bench, dataset, server, postgres)
            note = {"events": events} | grown_less(bench, events)
            if "resident_memory" in bench.wanted:
                extra = {"users": dataset.users, "before_mib": before_mib, "pss_mib": proportional_mib(server), **note}
                yield Figure(name="resident_memory", value=resident_mib(server), unit="MiB", extra=extra)
            if "grown_store" in bench.wanted:
                yield await grown_store(bench, Side(dataset=dataset, server=server, postgres=postgres), note)
            if past.NAME in bench.wanted:
                yield await past.figure(bench, server, note)
            with bench.stage("checking the books", 1):
                await check(postgres, dataset)
        if "takeover" in bench.wanted:
            took_s = await takeover.measured_s(bench, dataset, postgres)
            yield Figure(name="takeover", value=median(took_s), unit="s", extra={"rounds": took_s, **note})


async def grow(bench: Bench, dataset: Dataset, server: Member, postgres: EmbeddedPostgres) -> int:
    """Has all users bid, in turn, until the store is large enough; returns how many events it has then."""
    events, wanted = await last_position(postgres), bench.scale.grown_events
    bids = dataset.spread(BATCH_ITEMS, turn=1)
    with bench.stage(f"{wanted:,} events: bids of {dataset.users:,} users", wanted) as stage:
        while bids.first * BATCHES_IN_FLIGHT < dataset.users or events < wanted:
            plan = Plan(address=server.address, bids=bids, in_flight=BATCHES_IN_FLIGHT, bids_each=STRETCH_BIDS_EACH)
            dataset.bids += (await bench.generator.run(plan)).placed
            bids = replace(bids, first=bids.first + STRETCH_BIDS_EACH)
            events = await last_position(postgres)
            stage.left(max(0, wanted - events))
    return events


def grown_less(bench: Bench, events: int) -> dict[str, str]:
    """What is to be said where the store is smaller than the figure is defined for."""
    wanted = FULL.grown_events
    if events >= wanted:
        return {}
    return {"note": f"{bench.scale.name}: a grown store of {events:,} events, not {wanted:,}"}


async def grown_store(bench: Bench, grown: Side, note: dict[str, str | int]) -> Figure:
    """The same load on both: as many users and auctions in the grown store as the empty one has in all."""
    users, auctions = bench.scale.users, bench.scale.auctions
    async with side(bench.ground, "empty", bench.console, users=users, auctions=auctions) as empty:
        bidders_each = users // auctions
        ours = bench.bidding(
            grown,
            BATCHES_IN_FLIGHT,
            lambda: grown.dataset.spread(BATCH_ITEMS, bidders_each=bidders_each, turn=TURN),
        )
        theirs = bench.bidding(empty, BATCHES_IN_FLIGHT, lambda: empty.dataset.spread(BATCH_ITEMS, turn=TURN))
        return await bench.beside("grown_store", ours, "empty", theirs, **note)


def resident_mib(server: Member) -> float:
    shown = subprocess.run(["ps", "-o", "rss=", "-p", str(server.pid)], check=True, capture_output=True)
    return int(shown.stdout) / KIB_PER_MIB


def proportional_mib(server: Member) -> float | None:
    """With what is shared counted by halves, thirds, ...; None where the system does not tell."""
    rollup = Path(f"/proc/{server.pid}/smaps_rollup")
    if not rollup.exists():
        return None
    return next(int(line.split()[1]) for line in rollup.read_text().splitlines() if line.startswith("Pss:")) / 1024
