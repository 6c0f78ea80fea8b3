"""The load generator, a process of its own: so many calls in flight, each followed by the next.

    python -m tests.bench.load     a plan a line of JSON in, its result a line of JSON out

What is counted is bids that are durable. A cell that has too much to do is asked again, as it says; any other answer
but an acceptance ends the run.
"""

import asyncio
import json
import math
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import grpc.aio
import uvloop

from cellbook.v1 import auction_pb2
from cells.domain.refusals import QueueFull
from server.shell.statuses import refusal_in
from tests.bench.calls import Bids

SERVICE = (("cellbook-principal", "service/bench"),)
TIMEOUT_S = 20.0
QUEUE_FULL_PAUSE_S = 0.1
METHODS = {True: "/cellbook.v1.AuctionService/BatchPlaceBids", False: "/cellbook.v1.AuctionService/PlaceBid"}


class LoadFailed(Exception):
    """A call was not accepted. The message says what came instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """For so many seconds after the warm-up, or until `bids` are done: all of those count, the warm-up included."""

    address: str
    bids: Bids
    in_flight: int
    seconds: float = math.inf
    warm_up_s: float = 0.0
    bids_max: float = math.inf

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        said = json.loads(text)
        bids = said.pop("bids")
        return cls(bids=Bids(**{**bids, "auctions": tuple(bids["auctions"])}), **said)


@dataclass(slots=True, kw_only=True)
class Result:
    accepted: int = 0
    seconds: float = 0.0
    # Of each call that was counted, ascending.
    latencies_ms: list[float] = field(default_factory=list)
    # Bids that were turned away because the queue was full, and sent again.
    turned_away: int = 0
    # The first bid that was not sent.
    next_bid: int = 0
    answer_bytes: int = 0

    @property
    def per_s(self) -> float:
        return self.accepted / self.seconds

    def quantile_ms(self, share: float) -> float:
        return self.latencies_ms[int(share * (len(self.latencies_ms) - 1))] if self.latencies_ms else 0.0


class Load:
    def __init__(self, plan: Plan, method: Callable[..., Awaitable[bytes]]) -> None:
        self.plan = plan
        self.result = Result(next_bid=plan.bids.first)
        self._method = method
        self._calls = plan.bids.calls()
        self._counting_s = time.monotonic() + plan.warm_up_s
        self._end_s = self._counting_s + plan.seconds

    async def run(self) -> Result:
        async with asyncio.TaskGroup() as group:
            for _ in range(self.plan.in_flight):
                group.create_task(self._client())
        self.result.seconds = min(time.monotonic(), self._end_s) - self._counting_s
        self.result.latencies_ms.sort()
        return self.result

    async def _client(self) -> None:
        items = self.plan.bids.items
        while time.monotonic() < self._end_s and self.result.next_bid - self.plan.bids.first < self.plan.bids_max:
            self.result.next_bid += items
            request = next(self._calls)
            sent_s = time.monotonic()
            answer = await self._accepted(request)
            now_s = time.monotonic()
            if self.plan.bids.batch:
                check_all_accepted(answer, items)
            if self._counting_s <= now_s <= self._end_s:
                self.result.accepted += items
                self.result.latencies_ms.append((now_s - sent_s) * 1_000)
                self.result.answer_bytes = len(answer)

    async def _accepted(self, request: bytes) -> bytes:
        while True:
            try:
                return await self._method(request, metadata=SERVICE, timeout=TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                if not isinstance(refusal_in(error), QueueFull):
                    raise
            self.result.turned_away += self.plan.bids.items
            await asyncio.sleep(QUEUE_FULL_PAUSE_S)


def check_all_accepted(answer: bytes, items: int) -> None:
    results = auction_pb2.BatchPlaceBidsResponse.FromString(answer).results
    if len(results) != items:
        raise LoadFailed(f"{len(results)} of {items} items were answered")
    for number, result in enumerate(results):
        if not result.HasField("accepted"):
            raise LoadFailed(f"item {number} was refused: {result.refused.message}")


async def run(plan: Plan) -> Result:
    options: list[tuple[str, Any]] = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    async with grpc.aio.insecure_channel(plan.address, options=options) as channel:
        await asyncio.wait_for(channel.channel_ready(), TIMEOUT_S)
        try:
            # No serializers: bytes out, bytes in.
            return await Load(plan, channel.unary_unary(METHODS[plan.bids.batch])).run()
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
    # The wait for a plan blocks the loop: nothing else is going on meanwhile.
    uvloop.run(serve(iter(sys.stdin.readline, "")))
