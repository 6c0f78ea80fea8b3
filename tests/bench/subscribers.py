"""The write path with subscribers whose filters match nothing of what is written, and without any."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import grpc.aio

from cellbook.v1 import event_pb2
from cellbook.v1.event_pb2_grpc import EventServiceStub
from tests.bench.calls import AUDITOR
from tests.bench.cluster import Side, last_position
from tests.bench.measure import BATCH_ITEMS, BATCHES_IN_FLIGHT, TURN, Bench
from tests.bench.report import Figure, compared

NAME = "subscribers"
COUNT, CHANNELS = 200, 4
CAUGHT_UP_S = 60.0


async def figure(bench: Bench, side: Side) -> Figure:
    alone = bench.bidding(side, BATCHES_IN_FLIGHT, lambda: side.dataset.spread(BATCH_ITEMS, turn=TURN))

    async def watched_bids_per_s() -> float:
        async with subscribed(side.server.address, await last_position(side.postgres)):
            return await alone()

    values, yardsticks = await bench.in_turns(NAME, watched_bids_per_s, alone)
    return compared(NAME, "bids/s", values, "alone", yardsticks, subscribers=COUNT)


@asynccontextmanager
async def subscribed(address: str, from_position: int) -> AsyncIterator[None]:
    """All of them have caught up, and are there until the end."""
    channels = [
        grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(CHANNELS)
    ]
    calls = []
    for number in range(COUNT):
        events = EventServiceStub(channels[number % CHANNELS])
        request = event_pb2.SubscribeRequest(from_position=from_position, filter=sparse(number), progress=True)
        calls.append(events.Subscribe(request, metadata=AUDITOR))
    try:
        async with asyncio.timeout(CAUGHT_UP_S):
            await asyncio.gather(*map(caught_up, calls))
        yield
    finally:
        for call in calls:
            call.cancel()
        for channel in channels:
            await channel.close()


def sparse(number: int) -> event_pb2.EventFilter:
    """Users that nobody is, kinds of events that do not happen, and both: what no index is for."""
    users, kinds = str(uuid4()), ["AUCTION_CANCELLED"]
    match number % 3:
        case 0:
            return event_pb2.EventFilter(user_id=users)
        case 1:
            return event_pb2.EventFilter(event_types=kinds)
        case _:
            return event_pb2.EventFilter(user_id=users, event_types=["BID_PLACED"])


async def caught_up(call: "grpc.aio.UnaryStreamCall[event_pb2.SubscribeRequest, event_pb2.SubscribeResponse]") -> None:
    while True:
        item = await call.read()
        assert isinstance(item, event_pb2.SubscribeResponse), "the subscription has ended"
        if item.HasField("caught_up"):
            return
