"""One auction: its state, what became of a bid, and the form for the next one."""

import asyncio
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from cellbook.v1 import auction_pb2, ledger_pb2
from server.cli.client import CellStubs, LedgerRefusal, NoAnswer, new_command_id
from server.cli.texts import amount
from server.console.auctions.standing import Follower, own_id
from server.console.console import cell_in, console_of, ledger_of, render
from server.console.pages import get
from server.console.serving import field
from server.console.visitor import current_visitor

AUCTION = "/auctions/{cell}/{auction_id}"
SEEN = ("AuctionService.GetAuction", "AuctionService.GetAsset")
NOT_ARRIVED = "COMMAND_NOT_FOUND"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bid:
    """A bid as the form has it. Sent again under the same command_id, it is placed once."""

    command_id: str
    bidder: str
    # As they were typed. An empty maximum: none.
    amount: str
    maximum: str = ""
    # Its outcome is not known: the form sends this very bid again.
    is_open: bool = False
    # The outcome of the bid before.
    problem: str = ""
    success: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lot:
    cell: CellStubs
    auction: auction_pb2.Auction
    asset: auction_pb2.Asset
    # The state includes at least the events up to here.
    position: int

    @property
    def path(self) -> str:
        return path_of(self.auction)

    @property
    def least(self) -> str:
        return least_text(self.auction)


def path_of(auction: auction_pb2.Auction) -> str:
    """The page of "cells/{cell}/auctions/{uuid}"."""
    _, cell, _, auction_id = auction.name.split("/")
    return f"/auctions/{cell}/{auction_id}"


def least_minor(auction: auction_pb2.Auction) -> int:
    """The lowest amount that the next bid may have."""
    if not auction.HasField("highest_bid"):
        return auction.opening_price.amount_minor
    return auction.highest_bid.amount.amount_minor + auction.increment_minor


def least_text(auction: auction_pb2.Auction) -> str:
    """The same, as one types it."""
    return amount(least_minor(auction), auction.opening_price.currency).replace(",", "")


def name_in(request: Request) -> str:
    return f"cells/{request.path_params['cell']}/auctions/{request.path_params['auction_id']}"


async def lot_of(request: Request) -> Lot:
    cell = await cell_in(request)
    got = await cell.ask(cell.auctions.GetAuction, auction_pb2.GetAuctionRequest(name=name_in(request)))
    asset = await cell.ask(cell.auctions.GetAsset, auction_pb2.GetAssetRequest(name=got.auction.asset))
    return Lot(cell=cell, auction=got.auction, asset=asset.asset, position=got.token.position)


@get(AUCTION, *SEEN)
async def auction(request: Request) -> Response:
    lot, bid = await asyncio.gather(lot_of(request), sent_bid(request))
    return await lot_page(request, lot, bid)


async def lot_page(request: Request, lot: Lot, bid: Bid, *, status: int = 200) -> Response:
    return render(
        request,
        "auctions/auction.html",
        status=status,
        lot=lot,
        auction=lot.auction,
        active=lot.auction.state == auction_pb2.AUCTION_STATE_ACTIVE,
        least_minor=least_minor,
        standing=await Follower(request, has_bid=bool(bid.success)).standing(lot.auction),
        bid=bid,
    )


# --- the outcome of a bid ---------------------------------------------------------------------------------------------


def new_bid(*, problem: str = "", success: str = "", bidder: str = "", amount: str = "", maximum: str = "") -> Bid:
    return Bid(
        command_id=new_command_id(),
        bidder=own_id() or bidder,
        amount=amount,
        maximum=maximum,
        problem=problem,
        success=success,
    )


def seen_path(request: Request, lot: Lot, bid: Bid) -> str:
    """The page of the auction, which then says what became of the bid: loading it again sends nothing.

    It is signed for the visitor: in a link of somebody else, bidder and amount may be what they want to be sent.
    """
    signed = console_of(request).sessions.signature(*_signed_parts(lot.path, bid))
    query = {"bid": bid.command_id, "bidder": bid.bidder, "amount": bid.amount, "maximum": bid.maximum}
    return f"{lot.path}?{urlencode({**query, 'signed': signed})}"


def _signed_parts(path: str, bid: Bid) -> tuple[str, ...]:
    return "bid", str(current_visitor().principal), path, bid.command_id, bid.bidder, bid.amount, bid.maximum


async def sent_bid(request: Request) -> Bid:
    """The bid that the page's address names, by the outcome that the bidder's cell knows; or a new one."""
    command_id, bidder = await field(request, "bid"), await field(request, "bidder")
    if not command_id or not bidder:
        return new_bid()
    sent = Bid(
        command_id=command_id,
        bidder=bidder,
        amount=await field(request, "amount"),
        maximum=await field(request, "maximum"),
        is_open=True,
    )
    signed, parts = await field(request, "signed"), _signed_parts(request.url.path, sent)
    is_ours = console_of(request).sessions.is_signature(signed, *parts)
    outcome = await _outcome(request, sent)
    return outcome if is_ours else new_bid(problem=outcome.problem, success=outcome.success)


async def _outcome(request: Request, sent: Bid) -> Bid:
    """The next bid to offer: `sent` again if it is not decided."""
    try:
        home = await ledger_of(request).home_of(sent.bidder)
        wanted = ledger_pb2.GetCommandRequest(command_id=sent.command_id)
        found = await home.client.once(home.ledger.GetCommand, wanted, at=home.name)
    except NoAnswer as silence:
        return replace(sent, problem=f"It is not known whether your bid was placed: {silence}.")
    except LedgerRefusal as refusal:
        if refusal.reason != NOT_ARRIVED:
            return new_bid(problem=refusal.message, bidder=sent.bidder)
        return replace(sent, problem="The cell has no such bid: it has not arrived, or was refused.")
    if found.state == ledger_pb2.COMMAND_STATE_ACCEPTED:
        return new_bid(success="Your bid was accepted. Below is who leads now.", bidder=sent.bidder)
    if found.state == ledger_pb2.COMMAND_STATE_REFUSED:
        return new_bid(problem=f"Your bid was refused: {found.refusal.message}", bidder=sent.bidder)
    return replace(sent, problem="Your bid is under way to the auction's cell, and not decided yet.")
