"""The changes of an auction, as they happen: one watch of its cell for each page that is open."""

import json
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response

from cellbook.v1 import auction_pb2
from server.cli.client import CellStubs, ClientError, LedgerRefusal
from server.console.auctions.lot import AUCTION, least_minor, least_text, name_in
from server.console.auctions.standing import Follower
from server.console.console import cell_in, render_text
from server.console.pages import get
from server.console.serving import event_stream, field, whole_number

ENDED = frozenset(
    {
        auction_pb2.AUCTION_STATE_SETTLED,
        auction_pb2.AUCTION_STATE_UNSOLD,
        auction_pb2.AUCTION_STATE_CANCELLED,
        auction_pb2.AUCTION_STATE_SETTLEMENT_FAILED,
    }
)


@get(f"{AUCTION}/live", "AuctionService.WatchAuction")
async def live(request: Request) -> Response:
    """From the position in the query on. The browser comes again with the next one if the stream ends too soon."""
    position = whole_number(await field(request, "from") or "0", "position of a log")
    wanted = auction_pb2.WatchAuctionRequest(auction=name_in(request), from_position=position)
    return event_stream(request, _items(request, await cell_in(request), wanted))


async def _items(request: Request, cell: CellStubs, wanted: auction_pb2.WatchAuctionRequest) -> AsyncIterator[str]:
    follower = Follower(request)
    try:
        async for item in cell.items(cell.auctions.WatchAuction, wanted):
            standing = await follower.standing(item.auction)
            yield json.dumps(
                {
                    "standing": _part(request, "_standing.html", auction=item.auction, standing=standing),
                    "state": _part(request, "_state.html", auction=item.auction),
                    "changes": _part(request, "_changes.html", item=item),
                    "least": least_text(item.auction),
                    "next": str(item.next_position),
                    "cellMs": item.cell_time_ms,
                    "ended": item.auction.state in ENDED,
                }
            )
    except LedgerRefusal as refusal:
        yield json.dumps({"problem": refusal.message})
    except ClientError:
        # The browser continues from the last position.
        return


def _part(request: Request, template: str, **context: object) -> str:
    """A part of the page: the server escapes what it shows."""
    return render_text(request, f"auctions/{template}", least_minor=least_minor, **context)
