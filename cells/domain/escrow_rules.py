"""The escrow of an auction: money of the winner that arrives, goes to the seller, and comes back if the sale fails."""

from uuid import UUID

from cells.domain.auction.auction_rules import auction_of
from cells.domain.commands import PayOutEscrow, ReceiveEscrow
from cells.domain.decision import Context, View
from cells.domain.events import EscrowFunded, EscrowPaidOut, EscrowRefilled, EscrowRefunded
from cells.domain.refusals import EscrowTooSmall
from cells.domain.values import Kind, Money, Ref


def receive(action: ReceiveEscrow, view: View, context: Context) -> tuple[Ref, EscrowFunded]:
    auction_of(view, action.auction_id, context)
    event = EscrowFunded(
        currency=action.amount.currency,
        amount_minor=action.amount.amount_minor,
        from_cell=action.from_cell,
        clearing_id=action.clearing_id,
    )
    return Ref(Kind.AUCTION, action.auction_id), event


def refund(action: ReceiveEscrow, view: View, context: Context) -> tuple[Ref, EscrowRefunded]:
    _require_escrow(action.auction_id, action.amount, view, context)
    event = EscrowRefunded(
        currency=action.amount.currency,
        amount_minor=action.amount.amount_minor,
        to_cell=action.from_cell,
        clearing_id=action.clearing_id,
    )
    return Ref(Kind.AUCTION, action.auction_id), event


def pay_out(action: PayOutEscrow, view: View, context: Context) -> tuple[Ref, EscrowPaidOut]:
    _require_escrow(action.auction_id, action.amount, view, context)
    event = EscrowPaidOut(
        currency=action.amount.currency,
        amount_minor=action.amount.amount_minor,
        to_cell=action.to_cell,
        clearing_id=action.clearing_id,
    )
    return Ref(Kind.AUCTION, action.auction_id), event


def refill(action: PayOutEscrow, view: View, context: Context) -> tuple[Ref, EscrowRefilled]:
    auction_of(view, action.auction_id, context)
    event = EscrowRefilled(
        currency=action.amount.currency,
        amount_minor=action.amount.amount_minor,
        from_cell=action.to_cell,
        clearing_id=action.clearing_id,
    )
    return Ref(Kind.AUCTION, action.auction_id), event


def _require_escrow(auction_id: UUID, amount: Money, view: View, context: Context) -> None:
    escrow = auction_of(view, auction_id, context).escrow_minor
    if escrow < amount.amount_minor:
        raise EscrowTooSmall(auction_id=str(auction_id), escrow_minor=escrow, amount_minor=amount.amount_minor)
