"""How long a user with a long history is not served while moving, beside one with hardly any."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from typing import TYPE_CHECKING
from uuid import uuid4

import grpc.aio

from cellbook.v1 import auction_pb2, ledger_pb2, router_pb2, types_pb2
from cellbook.v1.auction_pb2_grpc import AuctionServiceStub
from cellbook.v1.ledger_pb2_grpc import LedgerServiceStub
from cellbook.v1.router_pb2_grpc import RouterServiceStub
from lab.cluster import Cluster
from lab.market import Market, Person
from lab.member import Member
from server.cli.client import new_command_id
from tests.bench.calls import BANK, OPERATOR, SERVICE
from tests.bench.checks import CheckFailed
from tests.bench.growth import resident_mib
from tests.bench.measure import Bench
from tests.bench.report import Figure, compared

if TYPE_CHECKING:
    # They exist for type checkers alone.
    from cellbook.v1.ledger_pb2_grpc import LedgerServiceAsyncStub
    from cellbook.v1.router_pb2_grpc import RouterServiceAsyncStub

NAME = "move_large"
HOME, SELLER_HOME = "us-east", "us-east"
BATCH = 500
CALL_S, MOVE_S, SAMPLE_S = 10.0, 3_600.0, 1.0
FUNDS_MINOR = 100_000_000


@dataclass(slots=True, kw_only=True)
class Watched:
    """A user who deposits all the time; how long each deposit had to be asked for until it was accepted."""

    address: str
    user_id: str
    waits_s: list[float] = field(default_factory=list)
    stopping: bool = False
    pause_s: float = 0.0

    async def live(self) -> None:
        async with grpc.aio.insecure_channel(self.address) as channel:
            ledger = LedgerServiceStub(channel)
            while not self.stopping:
                began_s = time.monotonic()
                command_id = new_command_id()
                request = ledger_pb2.DepositRequest(
                    command_id=command_id,
                    user_id=self.user_id,
                    amount=types_pb2.Money(currency="USD", amount_minor=1),
                    external_reference=command_id,
                )
                while not await self._accepted(ledger, request):  # noqa: ASYNC110 - there is no event for it
                    await asyncio.sleep(0.01)
                self.waits_s.append(time.monotonic() - began_s)
                await asyncio.sleep(self.pause_s)

    async def _accepted(self, ledger: "LedgerServiceAsyncStub", request: ledger_pb2.DepositRequest) -> bool:
        try:
            await ledger.Deposit(request, metadata=BANK, timeout=CALL_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
        return True


async def measured(bench: Bench) -> AsyncIterator[Figure]:
    """The longest that a deposit had to wait during a move, in seconds; each round is a move to the next cell."""
    if NAME not in bench.wanted:
        return
    async with Cluster(None) as cluster, Market(cluster.router) as market:
        address = next(member.address for member in cluster.members if member.name == HOME)
        large, small = [await market.register(label, HOME) for label in ("large", "small")]
        events = bench.scale.moved_events
        with bench.stage(f"a user with {events:,} events", events) as stage:
            async for done in bids(market, address, large, events):
                stage.advance(done)
        cells = {person.user_id: cycle(("eu-west", "ap-tokyo", HOME)) for person in (large, small)}
        took_s: list[float] = []

        async def moved(person: Person) -> float:
            began_s = time.monotonic()
            longest_s = await moved_under_load(cluster.router, person, next(cells[person.user_id]))
            took_s.append(time.monotonic() - began_s)
            return longest_s

        async with peak_memory(cluster.members[1:]) as peaks_mib:
            values, yardsticks = await bench.in_turns(NAME, lambda: moved(large), lambda: moved(small))
    extra = {"user_events": events, "longest_move_s": max(took_s), "peak_mib": max(peaks_mib.values())}
    yield compared(NAME, "s", values, "a user of few events", yardsticks, **extra)


@asynccontextmanager
async def peak_memory(members: Sequence[Member]) -> AsyncIterator[dict[str, float]]:
    """The most that each of these processes has had in memory meanwhile."""
    peaks = {member.name: 0.0 for member in members}

    async def watch() -> None:
        while True:
            for member in members:
                peaks[member.name] = max(peaks[member.name], resident_mib(member))
            await asyncio.sleep(SAMPLE_S)

    watching = asyncio.create_task(watch())
    try:
        yield peaks
    finally:
        watching.cancel()


async def bids(market: Market, address: str, person: Person, count: int) -> AsyncIterator[int]:
    """Each raises the one before it, and is an event of the person's account."""
    seller = await market.register("seller", SELLER_HOME)
    await market.deposit(person, "USD", FUNDS_MINOR)
    auction = await market.open_auction(SELLER_HOME, seller, "a lamp", "USD", 1)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = AuctionServiceStub(channel)
        for first in range(1, count + 1, BATCH):
            items = [
                auction_pb2.PlaceBidRequest(
                    command_id=new_command_id(),
                    auction=auction.name,
                    bidder_user_id=person.user_id,
                    amount=types_pb2.Money(currency="USD", amount_minor=amount),
                )
                for amount in range(first, min(first + BATCH, count + 1))
            ]
            reply = await stub.BatchPlaceBids(
                auction_pb2.BatchPlaceBidsRequest(items=items), metadata=SERVICE, timeout=60
            )
            if refused := [result for result in reply.results if not result.HasField("accepted")]:
                raise CheckFailed(f"{len(refused)} bids were refused, as {refused[0]}")
            yield len(items)


async def moved_under_load(router: str, person: Person, cell: str) -> float:
    watched = Watched(address=router, user_id=person.user_id)
    living = asyncio.create_task(watched.live())
    try:
        async with grpc.aio.insecure_channel(router) as channel:
            await _moved(RouterServiceStub(channel), person.user_id, cell)
    finally:
        watched.stopping = True
        await living
    return max(watched.waits_s)


async def _moved(stub: "RouterServiceAsyncStub", user_id: str, cell: str) -> None:
    request = router_pb2.MoveUserRequest(command_id=str(uuid4()), user_id=user_id, cell=cell, region="")
    ends_s = time.monotonic() + MOVE_S
    while time.monotonic() < ends_s:
        try:
            answer = await stub.MoveUser(request, metadata=OPERATOR, timeout=30)
        except grpc.aio.AioRpcError as error:
            if error.code() not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                raise
        else:
            if answer.move.state == router_pb2.MOVE_STATE_DONE:
                return
        await asyncio.sleep(0.2)
    raise CheckFailed(f"the move to {cell} has not ended")
