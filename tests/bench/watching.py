"""Watchers of one auction, a process of its own: so many streams, each read as fast as it comes.

    python -m tests.bench.watching ADDRESS AUCTION COUNT

Says "watching" once each has the auction's state, and at the end of its input how many updates came in all.
"""

import asyncio
import sys
from typing import Any

import grpc
import grpc.aio
import uvloop

from cellbook.v1 import auction_pb2
from tests.bench.calls import SERVICE
from tests.bench.load import TIMEOUT_S

METHOD = "/cellbook.v1.AuctionService/WatchAuction"
CHANNELS = 8
# Streams that are opened at once.
OPENING = 50


async def watch(address: str, auction: str, count: int) -> None:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(CHANNELS)]
    request = auction_pb2.WatchAuctionRequest(auction=auction).SerializeToString()
    # No serializers: bytes out, bytes in.
    calls: list[Any] = []
    for first in range(0, count, OPENING):
        some = (channels[number % CHANNELS] for number in range(first, min(first + OPENING, count)))
        calls += await asyncio.wait_for(asyncio.gather(*(opened(channel, request) for channel in some)), TIMEOUT_S)
    print("watching", flush=True)
    updates = 0

    async def read(call: Any) -> None:  # noqa: ANN401 - a call of bytes
        nonlocal updates
        while await call.read() is not grpc.aio.EOF:
            updates += 1

    reading = asyncio.gather(*map(read, calls))
    over = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await asyncio.wait([reading, over], return_when=asyncio.FIRST_COMPLETED)
    if reading.done():
        # A stream that ends says why.
        await reading
    print(updates, flush=True)
    reading.cancel()
    for channel in channels:
        await channel.close()


async def opened(channel: Any, request: bytes) -> Any:  # noqa: ANN401 - a channel, and a call of bytes
    """A watch that has the auction's state."""
    while True:
        call = channel.unary_stream(METHOD)(request, metadata=SERVICE)
        try:
            await call.read()
        except grpc.aio.AioRpcError as error:
            # A busy cell drops calls that it has not accepted within a second.
            if error.code() is not grpc.StatusCode.CANCELLED:
                raise
        else:
            return call


if __name__ == "__main__":
    uvloop.run(watch(sys.argv[1], sys.argv[2], int(sys.argv[3])))
