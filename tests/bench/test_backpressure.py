"""A cell that is offered ten times what it can do does about as much as it can, and what is urgent in time.

Three processes of their own: the cell with its PostgreSQL, the load generator, and the test, which meanwhile sends
legs as another cell would and has auctions end. BENCH_SECONDS=30 measures longer, and holds the bound of a quiet
machine: 80% of the peak.
"""

import asyncio
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import asyncpg
import grpc.aio
import pytest
from rich.console import Console

from cellbook.v1 import auction_pb2, settlement_pb2, types_pb2
from cellbook.v1.auction_pb2_grpc import AuctionServiceStub
from cellbook.v1.settlement_pb2_grpc import SettlementServiceStub
from lab.play import side_by_side
from tests.bench.calls import SERVICE, Bids, user_id
from tests.bench.cluster import DATABASE, Side, ground, side
from tests.bench.growth import resident_mib
from tests.bench.load import Plan, Result
from tests.bench.measure import BATCH_ITEMS, BATCHES_IN_FLIGHT
from tests.bench.processes import Generator, generator
from tests.bench.report import quantile
from tests.invariants import check_cell

PEER_CELL = "eu-west"
PEER = (("cellbook-principal", f"peer/{PEER_CELL}"),)
# The bidders of an auction outbid each other in turn.
AUCTIONS, BIDDERS_EACH, ENDING = 1_000, 4, 30

SECONDS = float(os.environ.get("BENCH_SECONDS", "3"))
LONG = SECONDS >= 20
# Short runs on a busy machine tell a collapse (a tenth of the peak, without the bounds) from none, and no more.
ATTEMPTS = 2
GOODPUT_LEAST = 0.8 if LONG else 0.4
RSS_GROWTH_MAX_MIB = 200
URGENT_MAX_S = 1.0 if LONG else 4.0
TIMES_THE_PEAK = 10
FLOOD_NICE, FLOOD_CHANNELS = 10, 4


def usd(amount_minor: int) -> types_pb2.Money:
    return types_pb2.Money(currency="USD", amount_minor=amount_minor)


async def open_auctions(channel: grpc.aio.Channel, seller: str, count: int, *, end_time_ms: int) -> None:
    auctions = AuctionServiceStub(channel)

    async def one(_: int) -> None:
        registered = auction_pb2.RegisterAssetRequest(command_id=str(uuid4()), owner_user_id=seller)
        created = auction_pb2.CreateAuctionRequest(
            command_id=str(uuid4()),
            asset=(await auctions.RegisterAsset(registered, metadata=SERVICE)).asset,
            seller_user_id=seller,
            opening_price=usd(1),
            end_time_ms=end_time_ms,
        )
        await auctions.CreateAuction(created, metadata=SERVICE)

    await side_by_side(range(count), one)


async def generate(here: Side, loader: Generator, plan: Plan) -> tuple[Result, float]:
    """What came of the load, and for how long the cell was at it: the generator itself may lag behind."""
    connection = await asyncpg.connect(here.postgres.dsn(DATABASE))
    try:
        before = await connection.fetchval("SELECT coalesce(max(position), 0) FROM event_store")
        result = await loader.run(plan)
        seconds = await connection.fetchval(
            "SELECT extract(epoch FROM max(recorded_at) - min(recorded_at))::float FROM event_store "
            "WHERE event_type = 'BID_PLACED' AND position > $1",
            before,
        )
    finally:
        await connection.close()
    return result, max(seconds, plan.seconds)


# --- what is urgent meanwhile ---


async def legs(channel: grpc.aio.Channel, seconds: float) -> list[float]:
    """Ten legs a second, as another cell sends them; how long each took until it was durable."""
    stub = SettlementServiceStub(channel)

    async def one() -> float:
        bidder = user_id(random.randrange(AUCTIONS * BIDDERS_EACH))
        pin = settlement_pb2.PinHold(user_id=bidder, auction_id=str(uuid4()), bid_id=str(uuid4()), amount=usd(1))
        leg = settlement_pb2.Leg(
            saga_id=str(uuid4()), leg="pin", generation=1, orchestrator=PEER_CELL,
            causation_id=str(uuid4()), user_id=bidder, pin_hold=pin,
        )  # fmt: skip
        began_s = time.monotonic()
        await stub.CompensateLeg(settlement_pb2.CompensateLegRequest(leg=leg), metadata=PEER, timeout=30)
        return time.monotonic() - began_s

    calls = []
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        calls.append(asyncio.create_task(one()))
        await asyncio.sleep(0.1)
    return list(await asyncio.gather(*calls))


async def closed_late_ms(dsn: str) -> list[int]:
    """By how much each auction that was closed was closed too late: the stamp of its batch tells."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch("""
            SELECT closed.hlc_physical - (created.payload ->> 'end_time_ms')::bigint AS late_ms
            FROM event_store AS closed
            JOIN event_store AS created USING (aggregate_id)
            WHERE closed.event_type = 'AUCTION_CLOSED' AND created.event_type = 'AUCTION_CREATED'
        """)
    finally:
        await connection.close()
    return [row["late_ms"] for row in rows]


# --- the test ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Flooded:
    peak_per_s: float
    flood: Result
    goodput_per_s: float
    legs_s: list[float]
    rss_before_mib: float
    rss_after_mib: float

    @property
    def goodput(self) -> float:
        return self.goodput_per_s / self.peak_per_s

    def show(self, name: str) -> None:
        offered_per_s, flood, legs_s = self.flood.sent / SECONDS, self.flood, self.legs_s
        p50_ms, p99_ms = flood.quantile_ms(0.5), flood.quantile_ms(0.99)
        print(f"{name}: {offered_per_s:,.0f}/s offered, {offered_per_s / self.peak_per_s:.1f} times the peak")
        print(f"  goodput   {self.goodput_per_s:,.0f} of {self.peak_per_s:,.0f} bids/s at the peak: {self.goodput:.0%}")
        print(f"  accepted  p50 {p50_ms:,.0f} ms, p99 {p99_ms:,.0f} ms; {flood.statuses}")
        print(f"  legs      p50 {quantile(legs_s, 0.5):.2f} s, the slowest {max(legs_s):.2f} s")
        print(f"  memory    {self.rss_before_mib:.0f} MiB before, {self.rss_after_mib:.0f} MiB after")


async def flooded(here: Side, bids: Callable[[], Bids], in_flight: int) -> Flooded:
    """The flood between two halves of the peak, with so many calls in flight: the machine may be slower later on."""
    address = here.server.address
    async with generator() as loader, generator(FLOOD_NICE) as flooder, grpc.aio.insecure_channel(address) as channel:

        async def half_a_peak() -> tuple[Result, float]:
            return await generate(
                here, loader, Plan(address=address, bids=bids(), in_flight=in_flight, seconds=SECONDS / 2)
            )

        peak, peak_s = await half_a_peak()
        calls_per_s = TIMES_THE_PEAK * peak.accepted / peak_s / bids().items
        rss_before_mib = resident_mib(here.server)
        plan = Plan(
            address=address,
            bids=bids(),
            in_flight=0,
            seconds=SECONDS,
            calls_per_s=calls_per_s,
            channels=FLOOD_CHANNELS,
        )
        flood = asyncio.create_task(generate(here, flooder, plan))
        legs_s = await legs(channel, SECONDS)
        result, seconds = await flood
        rss_after_mib = resident_mib(here.server)
        again, again_s = await half_a_peak()
    return Flooded(
        peak_per_s=(peak.accepted + again.accepted) / (peak_s + again_s),
        flood=result,
        goodput_per_s=result.accepted / seconds,
        legs_s=legs_s,
        rss_before_mib=rss_before_mib,
        rss_after_mib=rss_after_mib,
    )


async def calmest(here: Side, name: str, items: int, in_flight: int) -> Flooded:
    """The first of a few floods that reaches what must be: whoever else works on this machine does not always.

    Without the safeguards none does, on any machine (docs/benchmarks.md).
    """
    for _ in range(ATTEMPTS):
        result = await flooded(here, lambda: here.dataset.spread(items, turn=1), in_flight)
        result.show(name)
        if result.goodput >= GOODPUT_LEAST and max(result.legs_s) < URGENT_MAX_S:
            break
    return result


@pytest.mark.bench
@pytest.mark.slow
@pytest.mark.timeout(120 + 10 * ATTEMPTS * SECONDS)
async def test_a_flood_of_bids_leaves_the_cell_at_work(tmp_path: Path) -> None:
    """Of ten times the load the usual share is done, memory stays, legs are answered and auctions end in time."""
    users, console = AUCTIONS * BIDDERS_EACH, Console(quiet=True)
    async with ground(tmp_path) as place, side(place, "flooded", console, users=users, auctions=AUCTIONS) as here:
        end_time_ms = int((time.time() + SECONDS * 1.5) * 1_000)
        async with grpc.aio.insecure_channel(here.server.address) as channel:
            await open_auctions(channel, user_id(0), ENDING, end_time_ms=end_time_ms)
        batches = await calmest(here, "batches", BATCH_ITEMS, in_flight=BATCHES_IN_FLIGHT)
        unary = await calmest(here, "unary", 0, in_flight=64)
        late_ms = await closed_late_ms(here.postgres.dsn(DATABASE))
        print(f"auctions closed {max(late_ms):,} ms late at most")
        for each_of in (batches, unary):
            assert each_of.goodput >= GOODPUT_LEAST
            assert max(each_of.legs_s) < URGENT_MAX_S
            assert each_of.rss_after_mib - each_of.rss_before_mib < RSS_GROWTH_MAX_MIB
        assert len(late_ms) == ENDING
        assert max(late_ms) < URGENT_MAX_S * 1_000
        if LONG:
            await check_cell(here.postgres.dsn(DATABASE))
