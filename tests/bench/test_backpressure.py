"""A cell that is offered ten times what it can do does about as much as it can, and what is urgent in time.

Three processes of their own: the cell with its PostgreSQL, the load generator, and the test, which meanwhile sends
legs as another cell would and has auctions end. BENCH_SECONDS=30 measures longer, and holds the bound of a quiet
machine: 80% of the peak.
"""

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from uuid import uuid4

import asyncpg
import grpc.aio
import pytest

from cellbook.v1 import auction_pb2, ledger_pb2, settlement_pb2, types_pb2
from cellbook.v1.auction_pb2_grpc import AuctionServiceStub
from cellbook.v1.ledger_pb2_grpc import LedgerServiceStub
from cellbook.v1.settlement_pb2_grpc import SettlementServiceStub
from lab.member import Member
from lab.play import side_by_side
from tests.bench.flood import SERVICE, Plan, Result
from tests.bench.load import BANK
from tests.invariants import check_cell

CELL, PEER_CELL = "us-east", "eu-west"
OPERATOR = (("cellbook-principal", "operator/bench"),)
PEER = (("cellbook-principal", f"peer/{PEER_CELL}"),)
AUCTIONS, BATCH_ITEMS, ENDING = 250, 250, 30
FUNDS_MINOR = 10**12
START_S = 60.0

SECONDS = float(os.environ.get("BENCH_SECONDS", "3"))
LONG = SECONDS >= 20
# Short runs on a busy machine tell a collapse (a tenth of the peak, without the bounds) from none, and no more.
# A flood takes three numbers of runs, of which there are sixteen.
RUNS_EACH, ATTEMPTS = 3, 2
GOODPUT_LEAST = 0.8 if LONG else 0.4
RSS_GROWTH_MAX_MIB = 200
URGENT_MAX_S = 1.0 if LONG else 4.0
TIMES_THE_PEAK = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Town:
    """A cell with auctions in it, and two bidders with money for each of them."""

    member: Member
    channel: grpc.aio.Channel
    auctions: list[str]
    bidders: list[str]

    def rss_mib(self) -> float:
        shown = subprocess.run(["ps", "-o", "rss=", "-p", str(self.member.pid)], check=True, capture_output=True)
        return int(shown.stdout) / 1024


@asynccontextmanager
async def town(folder: Path) -> AsyncIterator[Town]:
    address = f"127.0.0.1:{random.randrange(12_000, 19_000)}"
    settings: dict[str, str | dict[str, str] | list[str]] = {"cell": CELL, "listen": address, "data": str(folder)}
    member = Member(name=CELL, module="server", address=address, folder=folder, settings=settings)
    member.start()
    try:
        await member.wait_until_ready(START_S)
        async with grpc.aio.insecure_channel(address) as channel:
            users = await open_users(channel, 2 * AUCTIONS + 1)
            auctions = await open_auctions(
                channel, users.pop(), AUCTIONS, end_time_ms=int((time.time() + 86_400) * 1_000)
            )
            yield Town(member=member, channel=channel, auctions=auctions, bidders=users)
    finally:
        await member.stop()


def usd(amount_minor: int) -> types_pb2.Money:
    return types_pb2.Money(currency="USD", amount_minor=amount_minor)


async def open_users(channel: grpc.aio.Channel, count: int) -> list[str]:
    ledger = LedgerServiceStub(channel)

    async def one(user_id: str) -> str:
        request = ledger_pb2.OpenAccountRequest(command_id=str(uuid4()), user_id=user_id, home_epoch=1)
        await ledger.OpenAccount(request, metadata=OPERATOR)
        return user_id

    users = await side_by_side([str(uuid4()) for _ in range(count)], one)
    for first in range(0, count, 500):
        deposits = [
            ledger_pb2.DepositRequest(
                command_id=str(uuid4()),
                user_id=user_id,
                amount=usd(FUNDS_MINOR),
                external_reference=user_id,
            )
            for user_id in users[first : first + 500]
        ]
        answer = await ledger.BatchDeposit(ledger_pb2.BatchDepositRequest(items=deposits), metadata=BANK)
        assert all(result.HasField("accepted") for result in answer.results)
    return users


async def open_auctions(channel: grpc.aio.Channel, seller: str, count: int, *, end_time_ms: int) -> list[str]:
    auctions = AuctionServiceStub(channel)

    async def one(_: str) -> str:
        registered = auction_pb2.RegisterAssetRequest(command_id=str(uuid4()), owner_user_id=seller)
        created = auction_pb2.CreateAuctionRequest(
            command_id=str(uuid4()),
            asset=(await auctions.RegisterAsset(registered, metadata=SERVICE)).asset,
            seller_user_id=seller,
            opening_price=usd(1),
            end_time_ms=end_time_ms,
        )
        return (await auctions.CreateAuction(created, metadata=SERVICE)).auction

    return await side_by_side([""] * count, one)


async def generate(here: Town, plan: Plan) -> tuple[Result, float]:
    """What came of the load, and for how long the cell was at it: the generator itself may lag behind."""
    connection = await asyncpg.connect(await here.member.dsn())
    try:
        before = await connection.fetchval("SELECT coalesce(max(position), 0) FROM event_store")
        result = await generator(plan)
        seconds = await connection.fetchval(
            "SELECT extract(epoch FROM max(recorded_at) - min(recorded_at))::float FROM event_store "
            "WHERE event_type = 'BID_PLACED' AND position > $1",
            before,
        )
    finally:
        await connection.close()
    return result, max(seconds, plan.seconds)


async def generator(plan: Plan) -> Result:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.flood", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    output, _ = await process.communicate(json.dumps(asdict(plan)).encode())
    assert process.returncode == 0
    return Result(**json.loads(output))


# --- what is urgent meanwhile ---


async def legs(here: Town, seconds: float) -> list[float]:
    """Ten legs a second, as another cell sends them; how long each took until it was durable."""
    stub = SettlementServiceStub(here.channel)

    async def one() -> float:
        pin = settlement_pb2.PinHold(
            user_id=random.choice(here.bidders), auction_id=str(uuid4()), bid_id=str(uuid4()), amount=usd(1)
        )
        leg = settlement_pb2.Leg(
            saga_id=str(uuid4()), leg="pin", generation=1, orchestrator=PEER_CELL,
            causation_id=str(uuid4()), user_id=pin.user_id, pin_hold=pin,
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


async def closed_late_ms(member: Member) -> list[int]:
    """By how much each auction that was closed was closed too late: the stamp of its batch tells."""
    connection = await asyncpg.connect(await member.dsn())
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
    offered_per_s: float
    goodput_per_s: float
    p50_ms: float
    p99_ms: float
    statuses: dict[str, int]
    legs_s: list[float]
    rss_before_mib: float
    rss_after_mib: float

    @property
    def goodput(self) -> float:
        return self.goodput_per_s / self.peak_per_s

    def show(self, name: str) -> None:
        legs_s = sorted(self.legs_s)
        print(f"{name}: {self.offered_per_s:,.0f}/s offered, {self.offered_per_s / self.peak_per_s:.1f} times the peak")
        print(f"  goodput   {self.goodput_per_s:,.0f} of {self.peak_per_s:,.0f} bids/s at the peak: {self.goodput:.0%}")
        print(f"  accepted  p50 {self.p50_ms:,.0f} ms, p99 {self.p99_ms:,.0f} ms; {self.statuses}")
        print(f"  legs      p50 {quantile(legs_s, 0.5):.2f} s, the slowest {legs_s[-1]:.2f} s")
        print(f"  memory    {self.rss_before_mib:.0f} MiB before, {self.rss_after_mib:.0f} MiB after")


def quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[int(share * (len(ordered) - 1))] if ordered else 0.0


async def flooded(here: Town, plan: Plan, in_flight: int) -> Flooded:
    """The flood between two halves of the peak, with so many calls in flight: the machine may be slower later on."""
    half = replace(plan, in_flight=in_flight, seconds=plan.seconds / 2)
    peak, peak_s = await generate(here, half)
    peak_per_s = peak.accepted / peak_s
    rss_before_mib = here.rss_mib()
    calls_per_s = TIMES_THE_PEAK * peak_per_s / max(plan.batch_items, 1)
    plan = replace(plan, run=plan.run + 1, calls_per_s=calls_per_s, channels=4, nice=10)
    flood = asyncio.create_task(generate(here, plan))
    legs_s = await legs(here, plan.seconds)
    result, seconds = await flood
    rss_after_mib = here.rss_mib()
    peak_again, peak_again_s = await generate(here, replace(half, run=plan.run + 1))
    return Flooded(
        peak_per_s=(peak.accepted + peak_again.accepted) / (peak_s + peak_again_s),
        offered_per_s=result.sent / plan.seconds,
        goodput_per_s=result.accepted / seconds,
        p50_ms=quantile(sorted(result.latencies_ms), 0.5),
        p99_ms=quantile(sorted(result.latencies_ms), 0.99),
        statuses=result.statuses,
        legs_s=legs_s,
        rss_before_mib=rss_before_mib,
        rss_after_mib=rss_after_mib,
    )


async def calmest(here: Town, name: str, plan: Plan, in_flight: int) -> Flooded:
    """The first of a few floods that reaches what must be: whoever else works on this machine does not always.

    Without the safeguards none does, on any machine (docs/benchmarks.md).
    """
    for attempt in range(ATTEMPTS):
        result = await flooded(here, replace(plan, run=plan.run + RUNS_EACH * attempt), in_flight=in_flight)
        result.show(name)
        if result.goodput >= GOODPUT_LEAST and max(result.legs_s) < URGENT_MAX_S:
            break
    return result


@pytest.mark.bench
@pytest.mark.slow
@pytest.mark.timeout(120 + 10 * ATTEMPTS * SECONDS)
async def test_a_flood_of_bids_leaves_the_cell_at_work(tmp_path: Path) -> None:
    """Of ten times the load the usual share is done, memory stays, legs are answered and auctions end in time."""
    async with town(tmp_path) as here:
        plan = Plan(
            address=here.member.address,
            auctions=here.auctions,
            bidders=here.bidders,
            batch_items=BATCH_ITEMS,
            seconds=SECONDS,
        )
        end_time_ms = int((time.time() + SECONDS * 1.5) * 1_000)
        await open_auctions(here.channel, here.bidders[0], ENDING, end_time_ms=end_time_ms)
        batches = await calmest(here, "batches", plan, in_flight=8)
        unary = await calmest(here, "unary", replace(plan, batch_items=0, run=RUNS_EACH * ATTEMPTS), in_flight=64)
        late_ms = await closed_late_ms(here.member)
        print(f"auctions closed {max(late_ms):,} ms late at most")
        for each_of in (batches, unary):
            assert each_of.goodput >= GOODPUT_LEAST
            assert max(each_of.legs_s) < URGENT_MAX_S
            assert each_of.rss_after_mib - each_of.rss_before_mib < RSS_GROWTH_MAX_MIB
        assert len(late_ms) == ENDING
        assert max(late_ms) < URGENT_MAX_S * 1_000
        if LONG:
            await check_cell(await here.member.dsn())
