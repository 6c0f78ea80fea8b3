"""The watch of a watcher that does not read ends after a while, and says where to go on.

gRPC sends a status after all that was written before, and cannot withdraw it. So the call itself, with its slot, ends
when the watcher reads that, or its connection ends.
"""

import asyncio

from cellbook.v1.auction_pb2 import WatchAuctionResponse
from cells.domain.refusals import WatcherTooSlow
from server.shell.calls.limits import WATCHES
from server.shell.rpc import Context

# How long an update may wait for a connection that takes nothing more.
UNREAD_MAX_S = 30.0


async def write(method: str, response: object, context: Context) -> None:
    """Sends an item of a stream. Raises WatcherTooSlow."""
    try:
        async with asyncio.timeout(UNREAD_MAX_S if method in WATCHES else None):
            await context.write(response)
    except TimeoutError:
        if not isinstance(response, bytes):
            raise
        item = WatchAuctionResponse.FromString(response)
        raise WatcherTooSlow(
            auction_id=item.auction.name.rpartition("/")[2], next_position=item.next_position
        ) from None
