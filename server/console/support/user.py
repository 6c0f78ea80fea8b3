"""One user: home, buckets, why money is reserved, auctions, events; and the contact, after a reason."""

import asyncio
from collections.abc import Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from cellbook.v1 import auction_pb2, contact_pb2, event_pb2, ledger_pb2, move_pb2
from server.cli.client import CellStubs, ClientError, LedgerRefusal
from server.cli.reach import Reach
from server.console.console import ledger_of, render
from server.console.pages import get, post
from server.console.serving import id_in, require_reason
from server.console.support.find import NEEDS
from server.console.support.holds import reason_of
from server.console.support.selling import LOOKED_THROUGH, LOOKED_THROUGH_MAX, selling_of
from server.console.support.words import auctions_of, words_of

EVENTS_SHOWN = 100
# Of each kind, the latest ones.
AUCTIONS_SHOWN = 10
CONTACT = "ContactService.GetContact"


@get("/support/users/{user_id}", *NEEDS)
async def user(request: Request) -> Response:
    return render(request, "support/user.html", **await _user(request, *await _home(request)), contact=None, problem="")


@get("/support/users/{user_id}/earlier", *NEEDS, "MoveService.ListEarlierEvents")
async def earlier(request: Request) -> Response:
    """The copies of events from earlier homes, which are kept by cell and in the order of its log."""
    cell, user_id = await _home(request)
    wanted = move_pb2.ListEarlierEventsRequest(
        user_id=user_id, page_size=EVENTS_SHOWN, page_token=request.query_params.get("page", "")
    )
    found = await cell.ask(cell.moves.ListEarlierEvents, wanted)
    return render(
        request,
        "support/earlier.html",
        user_id=user_id,
        events=[(event, words_of(event)) for event in found.events],
        next_page=found.next_page_token,
    )


@post("/support/users/{user_id}/contact", *NEEDS, CONTACT)
async def look(request: Request) -> Response:
    """The contact is the answer to the form, and on no page that can be loaded again without a reason."""
    reason = await require_reason(request, "reason")
    cell, user_id = await _home(request)
    wanted = contact_pb2.GetContactRequest(user_id=user_id, reason=reason)
    contact, problem = None, ""
    try:
        contact = await ledger_of(request).client.once(cell.contacts.GetContact, wanted, at=cell.name)
    except LedgerRefusal as refused:
        problem = refused.message
    return render(request, "support/user.html", **await _user(request, cell, user_id), contact=contact, problem=problem)


async def _home(request: Request) -> tuple[CellStubs, str]:
    user_id = id_in(request, "user_id")
    return await ledger_of(request).home_of(user_id), user_id


async def _user(request: Request, cell: CellStubs, user_id: str) -> dict[str, Any]:
    token = request.query_params.get("page", "")
    wanted = event_pb2.ListUserEventsRequest(user_id=user_id, page_size=EVENTS_SHOWN, page_token=token)
    account, events, reach = await asyncio.gather(
        cell.ask(cell.ledger.GetAccount, ledger_pb2.GetAccountRequest(user_id=user_id)),
        cell.ask(cell.events.ListUserEvents, wanted),
        ledger_of(request).reach(),
    )
    bid_in, sold_in = auctions_of(list(events.events), cell.name)
    bid_in, sold_in = bid_in[:AUCTIONS_SHOWN], sold_in[:AUCTIONS_SHOWN]
    limit = LOOKED_THROUGH_MAX if request.query_params.get("auctions") == "all" else LOOKED_THROUGH
    auctions, selling = await asyncio.gather(
        _auctions(reach, [*(hold.auction for hold in account.holds if hold.auction), *bid_in, *sold_in]),
        selling_of(reach, user_id, limit=limit),
    )
    return {
        "user_id": user_id,
        "home": cell,
        "account": account,
        "holds": [(hold, reason_of(hold, auctions.get(hold.auction), user_id)) for hold in account.holds],
        "bid_in": [(name, auctions.get(name)) for name in bid_in],
        "sold_in": [(name, auctions.get(name)) for name in sold_in],
        "selling": selling,
        "looked_through": limit,
        "looked_through_max": LOOKED_THROUGH_MAX,
        "events": [(event, words_of(event)) for event in events.events],
        "next_page": events.next_page_token,
        "first_page": not token,
    }


async def _auctions(reach: Reach, names: Iterable[str]) -> dict[str, auction_pb2.Auction]:
    """Those whose cell answers."""
    cells = {cell.name: cell for cell in reach.cells}

    async def auction(name: str) -> tuple[str, auction_pb2.Auction | None]:
        cell = cells.get(name.split("/")[1])
        if cell is None:
            return name, None
        try:
            request = auction_pb2.GetAuctionRequest(name=name)
            return name, (await reach.client.once(cell.auctions.GetAuction, request)).auction
        except (ClientError, LedgerRefusal):
            return name, None

    found = await asyncio.gather(*map(auction, dict.fromkeys(names)))
    return {name: each for name, each in found if each is not None}
