"""The open auctions of a seller. No call finds auctions by their seller, so those of all cells are looked through."""

import asyncio
from typing import NamedTuple

from cellbook.v1 import auction_pb2
from server.cli.client import CellStubs, ClientError, LedgerRefusal
from server.cli.reach import Reach

# Before the seller's money has moved; afterwards the auction is in the seller's events.
STATES = (auction_pb2.AUCTION_STATE_ACTIVE, auction_pb2.AUCTION_STATE_SETTLING)
# Of each cell and state: with the user's page, and on request.
LOOKED_THROUGH, LOOKED_THROUGH_MAX = 200, 5_000
PAGE = 1_000


class Selling(NamedTuple):
    auctions: list[auction_pb2.Auction]
    # Cells of which not all auctions were looked through, and those that did not answer.
    more: list[str]
    silent: list[str]


async def selling_of(reach: Reach, user_id: str, *, limit: int) -> Selling:
    """`limit`: how many of each cell and state to look through."""
    asked = [(cell, state) for cell in reach.cells for state in STATES]
    answers = await asyncio.gather(*(_of_cell(reach, *each, user_id, limit) for each in asked))
    found = Selling([], [], [])
    for (cell, _), answer in zip(asked, answers, strict=True):
        if answer is None:
            found.silent.append(cell.name)
        else:
            auctions, more = answer
            found.auctions.extend(auctions)
            found.more.extend([cell.name] if more else [])
    return Selling(found.auctions, list(dict.fromkeys(found.more)), list(dict.fromkeys(found.silent)))


async def _of_cell(
    reach: Reach, cell: CellStubs, state: "auction_pb2.AuctionState.ValueType", user_id: str, limit: int
) -> tuple[list[auction_pb2.Auction], bool] | None:
    """The seller's, and whether there are more to look through; None: no answer."""
    found, token = list[auction_pb2.Auction](), ""
    for first in range(0, limit, PAGE):
        request = auction_pb2.ListAuctionsRequest(state=state, page_size=min(PAGE, limit - first), page_token=token)
        try:
            page = await reach.client.once(cell.auctions.ListAuctions, request)
        except (ClientError, LedgerRefusal):
            return None
        found += [auction for auction in page.auctions if auction.seller_user_id == user_id]
        token = page.next_page_token
        if not token:
            break
    return found, bool(token)
