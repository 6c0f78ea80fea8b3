"""The load generator, a process of its own: so many calls in flight, each followed by the next.

    python -m tests.bench.load [NICE]     a plan a line of JSON in, its result a line of JSON out

What is counted is bids that are durable. A cell that has too much to do is asked again, as it says, and so is one that
was so late that gRPC dropped the call: the ids are the same. Any other answer but an acceptance ends the run, or in the
one auction that all bid in a bid that is too low by then.

With `calls_per_s` the load is a flood: calls are sent at that rate whatever becomes of them, and refusals are counted.
With NICE the generator takes from the machine only what the others leave: it stands for clients elsewhere.
"""

import asyncio
import json
import math
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from itertools import cycle
from typing import Any

import grpc
import grpc.aio
import uvloop

from cellbook.v1 import auction_pb2
from cells.domain.refusals import BidTooLow, QueueFull
from server.shell.calls.statuses import of_status, refusal_in
from tests.bench.calls import SERVICE, Bids
from tests.bench.report import quantile

TIMEOUT_S = 20.0
# Of a flood: how long a call may take, and how many may be without an answer before the generator itself gives in.
FLOOD_TIMEOUT_S, FLOOD_MAX = 2.0, 5_000
QUEUE_FULL_PAUSE_S = 0.1
METHODS = {True: "/cellbook.v1.AuctionService/BatchPlaceBids", False: "/cellbook.v1.AuctionService/PlaceBid"}


class LoadFailed(Exception):
    """A call was not accepted. The message says what came instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """For so many seconds after the warm-up, or until each client has placed so many bids, all of which count."""

    address: str
    bids: Bids
    in_flight: int
    seconds: float = math.inf
    warm_up_s: float = 0.0
    bids_each: float = math.inf
    # 0: `in_flight` calls at once, each followed by the next.
    calls_per_s: float = 0.0
    channels: int = 1

    @property
    def contested(self) -> bool:
        """Whether the clients bid in the same auction: which of their calls comes first is then anybody's guess."""
        return len(self.bids.auctions) < self.in_flight

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        said = json.loads(text)
        bids = said.pop("bids")
        return cls(bids=Bids(**{**bids, "auctions": tuple(bids["auctions"])}), **said)


@dataclass(slots=True, kw_only=True)
class Result:
    # In the time that counts.
    accepted: int = 0
    seconds: float = 0.0
    # Of each call in that time, ascending.
    latencies_ms: list[float] = field(default_factory=list)
    # In all.
    placed: int = 0
    # Bids that were turned away because the queue was full, or dropped by gRPC, and sent again.
    turned_away: int = 0
    # Bids of calls that another one overtook, in the one auction that all bid in: refused, and not counted.
    overtaken: int = 0
    answer_bytes: int = 0
    # Of a flood: bids that were sent, and what became of them, by the name of the answer.
    sent: int = 0
    statuses: dict[str, int] = field(default_factory=dict)

    @property
    def per_s(self) -> float:
        return self.accepted / self.seconds

    def quantile_ms(self, share: float) -> float:
        return quantile(self.latencies_ms, share)


class Load:
    def __init__(self, plan: Plan, methods: Sequence[Callable[..., Awaitable[bytes]]]) -> None:
        self.plan = plan
        self.result = Result()
        self._methods = cycle(methods)
        self._counting_s = time.monotonic() + plan.warm_up_s
        self._end_s = self._counting_s + plan.seconds

    async def run(self) -> Result:
        async with asyncio.TaskGroup() as group:
            if self.plan.calls_per_s:
                group.create_task(self._flood(self.plan.bids.calls()))
            else:
                for calls in self._calls():
                    group.create_task(self._client(calls))
        self.result.seconds = min(time.monotonic(), self._end_s) - self._counting_s
        self.result.latencies_ms.sort()
        return self.result

    def _calls(self) -> list[Iterator[bytes]]:
        """Each client's own, or one for all where there are not auctions enough."""
        bids, clients = self.plan.bids, self.plan.in_flight
        if self.plan.contested:
            return [bids.calls()] * clients
        return [bids.of(client, clients).calls() for client in range(clients)]

    async def _client(self, calls: Iterator[bytes]) -> None:
        items = self.plan.bids.items
        left = self.plan.bids_each
        while time.monotonic() < self._end_s and left > 0:
            left -= items
            request = next(calls)
            sent_s = time.monotonic()
            answer = await self._answer(request)
            now_s = time.monotonic()
            placed = placed_in(answer, items, contested=self.plan.contested) if self.plan.bids.batch else 1
            self.result.placed += placed
            self.result.overtaken += items - placed
            if self._counting_s <= now_s <= self._end_s:
                self.result.accepted += placed
                self.result.latencies_ms.append((now_s - sent_s) * 1_000)
                self.result.answer_bytes = len(answer)

    async def _answer(self, request: bytes) -> bytes:
        while True:
            try:
                return await next(self._methods)(request, metadata=SERVICE, timeout=TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                dropped = error.code() is grpc.StatusCode.CANCELLED
                if not dropped and not isinstance(refusal_in(error), QueueFull):
                    raise
            self.result.turned_away += self.plan.bids.items
            await asyncio.sleep(QUEUE_FULL_PAUSE_S)

    async def _flood(self, calls: Iterator[bytes]) -> None:
        under_way: set[asyncio.Task[None]] = set()
        began_s, sent = time.monotonic(), 0
        while (now_s := time.monotonic()) < self._end_s:
            due = int((now_s - began_s) * self.plan.calls_per_s)
            for _ in range(min(due - sent, FLOOD_MAX - len(under_way))):
                task = asyncio.create_task(self._offer(next(calls)))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            sent = due
            await asyncio.sleep(0.002)
        await asyncio.gather(*under_way)

    async def _offer(self, request: bytes) -> None:
        items, status = self.plan.bids.items, "OK"
        self.result.sent += items
        sent_s = time.monotonic()
        try:
            answer = await next(self._methods)(request, metadata=SERVICE, timeout=FLOOD_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            refused = refusal_in(error)
            status = refused.reason if refused else error.code().name
        else:
            self.result.accepted += accepted_in(answer) if self.plan.bids.batch else 1
            self.result.latencies_ms.append((time.monotonic() - sent_s) * 1_000)
        self.result.statuses[status] = self.result.statuses.get(status, 0) + items


def accepted_in(answer: bytes) -> int:
    results = auction_pb2.BatchPlaceBidsResponse.FromString(answer).results
    return sum(result.HasField("accepted") for result in results)


def placed_in(answer: bytes, items: int, *, contested: bool) -> int:
    """How many of the items were accepted. Raises LoadFailed for any that was not, unless it was merely overtaken."""
    results = auction_pb2.BatchPlaceBidsResponse.FromString(answer).results
    if len(results) != items:
        raise LoadFailed(f"{len(results)} of {items} items were answered")
    placed = items
    for number, result in enumerate(results):
        if result.HasField("accepted"):
            continue
        if not (contested and isinstance(of_status(result.refused), BidTooLow)):
            raise LoadFailed(f"item {number} was refused: {result.refused.message}")
        placed -= 1
    return placed


async def run(plan: Plan) -> Result:
    options: list[tuple[str, Any]] = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    async with AsyncExitStack() as stack:
        opened = [grpc.aio.insecure_channel(plan.address, options=options) for _ in range(plan.channels)]
        channels = [await stack.enter_async_context(channel) for channel in opened]
        await asyncio.wait_for(asyncio.gather(*(channel.channel_ready() for channel in channels)), TIMEOUT_S)
        try:
            # No serializers: bytes out, bytes in.
            return await Load(plan, [channel.unary_unary(METHODS[plan.bids.batch]) for channel in channels]).run()
        except* grpc.aio.AioRpcError as errors:
            error = errors.exceptions[0]
            assert isinstance(error, grpc.aio.AioRpcError)
            raise LoadFailed(f"{error.code().name}: {error.details()}") from None
        except* LoadFailed as errors:
            raise errors.exceptions[0] from None


async def serve(plans: Iterator[str]) -> None:
    for text in plans:
        try:
            said = asdict(await run(Plan.from_json(text)))
        except* LoadFailed as errors:
            said = {"failed": str(errors.exceptions[0])}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    os.nice(int(sys.argv[1]) if sys.argv[1:] else 0)
    # The wait for a plan blocks the loop: nothing else is going on meanwhile.
    uvloop.run(serve(iter(sys.stdin.readline, "")))
