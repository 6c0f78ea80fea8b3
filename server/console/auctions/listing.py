"""The auctions of all cells, or of one of them page by page."""

from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from cellbook.v1 import auction_pb2
from server.cli.texts import enum_choices
from server.console.auctions.lot import path_of
from server.console.console import ledger_of, render
from server.console.pages import get
from server.console.serving import BadInput, field

ROWS = 50
# The list begins with this state; "any": all of them.
ACTIVE, ANY = "active", "any"
STATES = enum_choices(auction_pb2.Auction, "state")


class Listed(NamedTuple):
    cell: str
    auctions: list[auction_pb2.Auction]
    # Of the next page; empty: there is none.
    page_token: str


@get("/auctions", "AuctionService.ListAuctions", title="Auctions")
async def listing(request: Request) -> Response:
    cell, wanted = await field(request, "cell"), await field(request, "state") or ACTIVE
    if wanted not in {ANY, *STATES}:
        raise BadInput(f"{wanted!r} is no state of an auction: expected {ANY}, {', '.join(STATES)}")
    reach = await ledger_of(request).reach(cell)
    token = await field(request, "page_token") if cell else ""
    page = auction_pb2.ListAuctionsRequest(state=STATES.get(wanted, 0), page_size=ROWS, page_token=token)
    answers = await reach.ask_all(lambda each: each.auctions.ListAuctions, page)
    return render(
        request,
        "auctions/list.html",
        listed=[Listed(name, list(given.auctions), given.next_page_token) for name, given in answers.given.items()],
        silent=answers.silent,
        refused=[refusal.message for refusal in answers.refused.values()],
        cells=reach.listed,
        cell=cell,
        states=(ANY, *STATES),
        state=wanted,
        path_of=path_of,
    )
