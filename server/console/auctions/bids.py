"""The bid form. Its command_id is made with the form, so it is the same however often the form is sent."""

import re

from starlette.requests import Request
from starlette.responses import Response

from cellbook.v1 import auction_pb2, types_pb2
from cells.domain.values import CURRENCY_EXPONENTS
from server.cli.client import LedgerRefusal, NoAnswer
from server.console.auctions.lot import AUCTION, SEEN, Bid, Lot, lot_of, lot_page, new_bid, seen_path
from server.console.auctions.standing import own_id
from server.console.console import ledger_of
from server.console.pages import post
from server.console.serving import UNPROCESSABLE, BadInput, field, see

_AMOUNT = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,4}))?")


@post(f"{AUCTION}/bids", *SEEN, "AuctionService.PlaceBid", "RouterService.ResolveUser")
async def bid(request: Request) -> Response:
    """Places the bid at the bidder's home; the page that follows says what became of it."""
    lot = await lot_of(request)
    sent = Bid(
        command_id=await field(request, "command_id"),
        bidder=own_id() or await field(request, "bidder"),
        amount=await field(request, "amount"),
        maximum=await field(request, "maximum"),
    )
    try:
        await _place(request, lot, sent)
    except LedgerRefusal as refusal:
        problem = f"Your bid was refused: {refusal.message}"
        refused = new_bid(problem=problem, bidder=sent.bidder, amount=sent.amount, maximum=sent.maximum)
        return await lot_page(request, await lot_of(request), refused, status=UNPROCESSABLE)
    except NoAnswer:
        # The next page asks for the outcome, and offers to send this very bid again.
        pass
    return see(seen_path(request, lot, sent))


async def _place(request: Request, lot: Lot, bid: Bid) -> None:
    """Raises LedgerRefusal, NoAnswer, BadInput."""
    currency = lot.auction.opening_price.currency
    amount = types_pb2.Money(currency=currency, amount_minor=parse_amount(bid.amount, currency))
    command = auction_pb2.PlaceBidRequest(
        command_id=bid.command_id, auction=lot.auction.name, bidder_user_id=bid.bidder, amount=amount
    )
    if bid.maximum:
        maximum_minor = parse_amount(bid.maximum, currency)
        if maximum_minor < amount.amount_minor:
            raise BadInput(
                f"the maximum of {bid.maximum} is less than the bid of {bid.amount}: raise it, or leave it empty"
            )
        command.maximum.CopyFrom(types_pb2.Money(currency=currency, amount_minor=maximum_minor))
    home = await ledger_of(request).home_of(bid.bidder)
    await home.client.once(home.auctions.PlaceBid, command, at=home.name)


def parse_amount(text: str, currency: str) -> int:
    """The minor units of an amount that was typed: 1250 of "12.50" USD. Raises BadInput."""
    exponent, found = CURRENCY_EXPONENTS.get(currency, 0), _AMOUNT.fullmatch(text)
    if found is None or len(found[2] or "") > exponent:
        example = "12" if exponent == 0 else f"12.{'5':0<{exponent}}"
        raise BadInput(f"{text!r} is no amount in {currency}: write it as in {example}")
    return int(found[1] + (found[2] or "").ljust(exponent, "0"))
