"""A load generator in a process of its own: bids without end, as batches or one by one, from bytes made beforehand.

    python -m tests.bench.flood < plan.json     one line of JSON at the end: what came of it

With `in_flight` the load is closed: that many calls at once, each followed by the next. With `calls_per_s` it is open:
calls are sent at that rate whatever becomes of them. A call costs the generator little, and with `nice` it takes from
the machine only what the others leave: it stands for clients elsewhere.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import Any

import grpc
import grpc.aio
import uvloop

from cellbook.v1 import auction_pb2, types_pb2
from server.shell.calls.statuses import refusal_in

SERVICE = (("cellbook-principal", "service/flood"),)
# How many calls may be without an answer before the generator itself gives in.
IN_FLIGHT_MAX = 5_000
# Placeholders that are as long, encoded, as whatever takes their place: a fixed part of a UUID, a varint of 4 bytes.
_ID = "facade00"
_AMOUNT, _AMOUNT_BYTES = 0x0FEDCBA, b"\xba\xb9\xfb\x07"
AMOUNT_LEAST = 1 << 21


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`bidders` are two for each auction: they outbid each other in turn."""

    address: str
    auctions: list[str]
    bidders: list[str]
    # 0: unary calls.
    batch_items: int
    seconds: float
    in_flight: int = 0
    calls_per_s: float = 0.0
    channels: int = 1
    timeout_s: float = 2.0
    # Tells the command ids and amounts of one run from those of another: rising from run to run.
    run: int = 0
    nice: int = 0


@dataclass(slots=True)
class Result:
    sent: int = 0
    accepted: int = 0
    refused: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    latencies_ms: list[float] = field(default_factory=list)


def call_bytes(plan: Plan) -> Iterator[tuple[int, bytes]]:
    """Each call's items and bytes: one bid an item, no auction twice in one batch, amounts rising from call to call."""
    items = max(plan.batch_items, 1)
    slots = [list(range(first, first + items)) for first in range(0, len(plan.auctions) - items + 1, items)]
    templates = [[_template(plan, slot, side) for slot in slots] for side in (0, 1)]
    for number in count():
        round_, slot = divmod(number, len(slots))
        template = templates[round_ % 2][slot]
        amount = AMOUNT_LEAST + plan.run * 1_000_000 + round_
        yield (
            items,
            template.replace(_ID.encode(), b"%08x" % (plan.run << 28 | number)).replace(_AMOUNT_BYTES, _varint(amount)),
        )


def _template(plan: Plan, slot: list[int], side: int) -> bytes:
    bids = [
        auction_pb2.PlaceBidRequest(
            command_id=f"{_ID}-0000-4000-8000-{index:012x}",
            auction=plan.auctions[index],
            bidder_user_id=plan.bidders[2 * index + side],
            amount=types_pb2.Money(currency="USD", amount_minor=_AMOUNT),
        )
        for index in slot
    ]
    message = auction_pb2.BatchPlaceBidsRequest(items=bids) if plan.batch_items else bids[0]
    return message.SerializeToString()


def _varint(value: int) -> bytes:
    """Of exactly 4 bytes."""
    return bytes((value & 127 | 128, value >> 7 & 127 | 128, value >> 14 & 127 | 128, value >> 21))


class Flood:
    def __init__(self, plan: Plan, channels: list[grpc.aio.Channel]) -> None:
        self.plan = plan
        self.result = Result()
        name = "BatchPlaceBids" if plan.batch_items else "PlaceBid"
        # No serializers: bytes out, bytes in.
        self.methods: list[Callable[..., Awaitable[Any]]] = [
            channel.unary_unary(f"/cellbook.v1.AuctionService/{name}") for channel in channels
        ]
        self.calls = call_bytes(plan)
        self.end_s = time.monotonic() + plan.seconds

    async def call(self) -> None:
        items, request = next(self.calls)
        method = self.methods[self.result.sent // items % len(self.methods)]
        self.result.sent += items
        began_s = time.monotonic()
        try:
            answer = await method(request, metadata=SERVICE, timeout=self.plan.timeout_s)
        except grpc.aio.AioRpcError as error:
            refused = refusal_in(error)
            self._count(refused.reason if refused else error.code().name, items)
            return
        accepted = self._accepted(answer)
        self._count("OK", items)
        self.result.refused += items - accepted
        self.result.accepted += accepted
        self.result.latencies_ms.append((time.monotonic() - began_s) * 1_000)

    def _count(self, status: str, items: int) -> None:
        self.result.statuses[status] = self.result.statuses.get(status, 0) + items

    def _accepted(self, answer: bytes) -> int:
        if not self.plan.batch_items:
            return 1
        results = auction_pb2.BatchPlaceBidsResponse.FromString(answer).results
        return sum(result.HasField("accepted") for result in results)

    async def closed(self) -> None:
        async def client() -> None:
            while time.monotonic() < self.end_s:
                await self.call()

        await asyncio.gather(*(client() for _ in range(self.plan.in_flight)))

    async def open(self) -> None:
        began_s = time.monotonic()
        calls: set[asyncio.Task[None]] = set()
        sent = 0
        while (now_s := time.monotonic()) < self.end_s:
            due = int((now_s - began_s) * self.plan.calls_per_s)
            for _ in range(min(due - sent, IN_FLIGHT_MAX - len(calls))):
                task = asyncio.create_task(self.call())
                calls.add(task)
                task.add_done_callback(calls.discard)
            sent = due
            await asyncio.sleep(0.002)
        await asyncio.gather(*calls)


async def run(plan: Plan) -> Result:
    # A subchannel pool of its own: each channel is a connection.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 4 << 20)]
    channels = [grpc.aio.insecure_channel(plan.address, options=options) for _ in range(plan.channels)]
    try:
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        flood = Flood(plan, channels)
        await (flood.closed() if plan.in_flight else flood.open())
        return flood.result
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))


def main() -> None:
    plan = Plan(**json.load(sys.stdin))
    os.nice(plan.nice)
    print(json.dumps(asdict(uvloop.run(run(plan)))))


if __name__ == "__main__":
    main()
