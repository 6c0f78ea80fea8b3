"""Why money is reserved: what each hold is for, and when it ends."""

from typing import NamedTuple

from cellbook.v1 import auction_pb2, ledger_pb2
from server.cli.texts import amount_text, enum_text

_STATE = auction_pb2.AuctionState


class Reason(NamedTuple):
    """`why` the hold is there, and what `ends` it. `until` names the moment `until_ms`; empty: none is known."""

    why: str
    ends: str
    until: str = ""
    until_ms: int = 0
    # The auction, and the settlement with the cell that drives it; empty: there is none.
    auction: str = ""
    saga_id: str = ""
    saga_cell: str = ""


def reason_of(hold: ledger_pb2.Hold, auction: auction_pb2.Auction | None, user_id: str) -> Reason:
    """`auction` None: the hold has none, or its cell does not answer."""
    if not hold.auction:
        return _of_reservation(hold)
    cell = hold.auction.split("/")[1]
    if auction is None:
        why = f"It backs a bid in an auction of {cell}, which does not say more at the moment."
        ends = "Ask again when that cell answers."
        return Reason(why, ends, auction=hold.auction, saga_id=hold.saga_id, saga_cell=cell)
    if hold.saga_id:
        return Reason(
            f"It pays for what was won: the auction's settlement is under way ({enum_text(auction, 'state')}).",
            "The settlement takes it, or sets it free if the sale is undone.",
            auction=hold.auction,
            saga_id=hold.saga_id,
            saga_cell=cell,
        )
    return _of_bid(hold, auction, user_id)


def _of_reservation(hold: ledger_pb2.Hold) -> Reason:
    why = "A service has reserved it for a purpose of its own, not for an auction."
    if hold.bid_ids:
        why = "It backs a bid. Its event is from before holds named their auction."
        return Reason(why, "It is paid or released when that auction ends, or when somebody bids more.")
    if not hold.expire_time_ms:
        return Reason(why, "It never expires: the service captures or releases it.")
    return Reason(why, "The service captures or releases it; otherwise it expires.", "Expires", hold.expire_time_ms)


def _of_bid(hold: ledger_pb2.Hold, auction: auction_pb2.Auction, user_id: str) -> Reason:
    bid = auction.highest_bid
    leads = bid.bidder_user_id == user_id
    offered = amount_text(bid.amount.amount_minor, bid.amount.currency) if bid.bid_id else ""
    if auction.state != _STATE.AUCTION_STATE_ACTIVE:
        state = enum_text(auction, "state")
        why = f"It backed {'the winning' if leads else 'a'} bid in an auction that has ended ({state})."
        ends = "It is about to be paid or released."
        return Reason(why, ends, auction=hold.auction, saga_id=auction.saga_id, saga_cell=hold.auction.split("/")[1])
    if leads:
        why = f"It backs the highest bid, of {offered}, in an auction that is still open."
        if hold.amount.amount_minor > bid.amount.amount_minor:
            why += " It has the whole maximum: the auction raises the bid within it as others bid."
        ends = "It is released when somebody bids more. If the auction ends like this, it pays for what was won."
        return Reason(why, ends, "The auction ends", auction.end_time_ms, hold.auction)
    why = f"It backs a bid that no longer leads: the highest one is {offered or 'none yet'}."
    return Reason(why, "Its release is under way, or its bid is not decided yet.", auction=hold.auction)
