"""The settlement of an auction: the winner's money goes to the seller, the asset to the winner; or nothing happens.

The money passes through the auction's escrow. It arrives there, goes to the seller, and comes back if the sale fails.
"""

from collections.abc import Iterator
from uuid import UUID

from cells.domain import commands, events, refusals
from cells.domain.account.account import Hold
from cells.domain.account.barrier import LegCommand, barrier_of
from cells.domain.account.ledger_rules import holds_bid, release_bid, require_room, require_room_to_return
from cells.domain.auction.auction_rules import auction_of
from cells.domain.decision import Context, UncommittedEvent, View, account_of
from cells.domain.peer_rules import foreign_leg, require_own_auction
from cells.domain.sagas.definition import (
    Effect,
    Flow,
    LegContext,
    LegSpec,
    SagaDefinition,
    SagaKind,
)
from cells.domain.sagas.notice import NOTIFY
from cells.domain.sagas.saga_events import NoticeFacts, SettlementFacts
from cells.domain.sagas.saga_start import started
from cells.domain.values import Direction, Kind, Money, Ref, derived_id

AUCTION = (Kind.AUCTION, "auction_id")
CREDIT, SETTLE = "credit-in", "settle"


def _pin(action: commands.PinHold, at: LegContext) -> events.HoldPinned:
    _held(action, at, pinned_by=None)
    return events.HoldPinned(hold_id=action.auction_id, bid_id=action.bid_id, saga_id=at.leg_id.saga_id)


def free(action: commands.PinHold | commands.ReserveForBid, at: LegContext) -> events.FundsReleased:
    account, currency = account_of(at.view, action.user_id), action.amount.currency
    return release_bid(account, auction_id=action.auction_id, bid_id=action.bid_id, currency=currency)


def _is_held(action: commands.PinHold, view: View) -> bool:
    """The winning bid's hold is older than the settlement: it is released even if it was never pinned.

    If the user has moved since, another home may have released it, and of a user who is unknown here nothing was ever
    held, whatever an earlier home says: then there is nothing to undo here.
    """
    known = view.account(action.user_id) is not None
    return known and holds_bid(account_of(view, action.user_id), action.auction_id, action.bid_id)


def _held(action: commands.PinHold | commands.SendToEscrow, at: LegContext, *, pinned_by: UUID | None) -> Hold:
    hold = account_of(at.view, action.user_id).holds.get(action.auction_id)
    if hold is None or hold.saga_id != pinned_by or not hold.backs(action.bid_id, action.amount):
        raise refusals.HoldNotPinnable(
            bid_id=str(action.bid_id), auction_id=str(action.auction_id), amount_minor=action.amount.amount_minor
        )
    return hold


def _send(action: commands.SendToEscrow, at: LegContext) -> events.EscrowSent:
    hold = _held(action, at, pinned_by=at.leg_id.saga_id)
    return events.EscrowSent(
        **action.amount.fields,
        hold_id=action.auction_id,
        bid_id=action.bid_id,
        # Bidding is over: the amount that other, unresolved bids of the winner held beyond the winning one is free.
        released_minor=hold.amount_minor - action.amount.amount_minor,
        to_cell=action.to_cell,
        clearing_id=action.clearing_id,
    )


def _return(action: commands.SendToEscrow, at: LegContext) -> events.EscrowReturned:
    # A compensation repeats the action; one with different content may name something that does not exist.
    require_room_to_return(account_of(at.view, action.user_id), action.amount)
    return events.EscrowReturned(
        **action.amount.fields,
        hold_id=action.auction_id,
        bid_id=action.bid_id,
        saga_id=at.leg_id.saga_id,
        from_cell=action.to_cell,
        clearing_id=action.clearing_id,
    )


def _receive(action: commands.ReceiveEscrow, at: LegContext) -> events.EscrowFunded:
    auction_of(at.view, action.auction_id, at.context)
    return events.EscrowFunded(**action.amount.fields, from_cell=action.from_cell, clearing_id=action.clearing_id)


def _refund(action: commands.ReceiveEscrow, at: LegContext) -> events.EscrowRefunded:
    _require_escrow(action, at)
    return events.EscrowRefunded(**action.amount.fields, to_cell=action.from_cell, clearing_id=action.clearing_id)


def _pay_out(action: commands.PayOutEscrow, at: LegContext) -> events.EscrowPaidOut:
    _require_escrow(action, at)
    return events.EscrowPaidOut(**action.amount.fields, to_cell=action.to_cell, clearing_id=action.clearing_id)


def _refill(action: commands.PayOutEscrow, at: LegContext) -> events.EscrowRefilled:
    auction_of(at.view, action.auction_id, at.context)
    return events.EscrowRefilled(**action.amount.fields, from_cell=action.to_cell, clearing_id=action.clearing_id)


def _require_escrow(action: commands.ReceiveEscrow | commands.PayOutEscrow, at: LegContext) -> None:
    escrow, amount_minor = auction_of(at.view, action.auction_id, at.context).escrow_minor, action.amount.amount_minor
    if escrow < amount_minor:
        raise refusals.EscrowTooSmall(auction_id=str(action.auction_id), escrow_minor=escrow, amount_minor=amount_minor)


def _credit(action: commands.CreditPending, at: LegContext) -> events.PendingCredited:
    require_room(account_of(at.view, action.user_id), action.amount)
    return events.PendingCredited(
        **action.amount.fields,
        auction_id=action.auction_id,
        from_cell=action.from_cell,
        clearing_id=action.clearing_id,
    )


def _reverse(action: commands.CreditPending, at: LegContext) -> events.PendingReversed:
    _require_pending(action, at)
    return events.PendingReversed(
        **action.amount.fields, auction_id=action.auction_id, to_cell=action.from_cell, clearing_id=action.clearing_id
    )


def _settle(action: commands.SettlePending, at: LegContext) -> events.PendingSettled:
    _require_pending(action, at)
    return events.PendingSettled(**action.amount.fields, auction_id=action.auction_id, fee_minor=action.fee_minor)


def _require_pending(action: commands.CreditPending | commands.SettlePending, at: LegContext) -> None:
    currency, amount_minor = action.amount
    pending = account_of(at.view, action.user_id).balance(currency).pending_minor
    if pending < amount_minor:
        raise refusals.PendingTooSmall(user_id=str(action.user_id), pending_minor=pending, amount_minor=amount_minor)


def _transfer(action: commands.TransferOwnership, at: LegContext) -> events.OwnershipTransferred:
    asset = at.view.asset(action.asset_id)
    if asset is None:
        raise refusals.AssetNotFound(asset_id=str(action.asset_id), cell=at.context.cell)
    if asset.owner_id != action.from_user_id or asset.locked_by != action.auction_id:
        raise refusals.NotTheOwner(asset_id=str(action.asset_id), user_id=str(action.from_user_id))
    return events.OwnershipTransferred(
        auction_id=action.auction_id,
        from_user_id=action.from_user_id,
        to_user_id=action.to_user_id,
        to_cell=action.to_cell,
    )


# --- another cell settles or takes back only the sales that it has credited -------------------------------------------


def _credit_of(command: LegCommand) -> commands.ApplyLeg:
    """The leg that credited the sale to be settled. Its amount and ids are not compared."""
    action = _sale(command)
    credited = commands.CreditPending(
        user_id=action.user_id,
        auction_id=action.auction_id,
        amount=action.amount,
        from_cell=command.orchestrator,
        clearing_id=command.leg_id.saga_id,
    )
    return commands.ApplyLeg(
        leg_id=command.leg_id._replace(leg=CREDIT), action=credited, orchestrator=command.orchestrator
    )


def _settle_of(command: LegCommand) -> commands.ApplyLeg:
    action = _sale(command)
    settled = commands.SettlePending(
        user_id=action.user_id, auction_id=action.auction_id, amount=action.amount, fee_minor=0
    )
    return commands.ApplyLeg(
        leg_id=command.leg_id._replace(leg=SETTLE), action=settled, orchestrator=command.orchestrator
    )


def _sale(command: LegCommand) -> commands.CreditPending | commands.SettlePending:
    assert isinstance(command.action, commands.CreditPending | commands.SettlePending)  # noqa: S101 - each is asked for its own effect
    return command.action


def _require_credited(command: LegCommand, view: View, context: Context) -> None:
    credit = barrier_of(_credit_of(command), view, context.cell)
    if isinstance(command, commands.ApplyLeg) and (credit.action is None or credit.compensation is not None):
        raise foreign_leg(command, "this saga has credited no such sale, or has taken it back")


def _require_not_settled(command: LegCommand, view: View, context: Context) -> None:
    if (
        not isinstance(command, commands.ApplyLeg)
        and barrier_of(_settle_of(command), view, context.cell).action is not None
    ):
        raise foreign_leg(command, "the sale is settled")


# --- its ends ---------------------------------------------------------------------------------------------------------


def _completed(flow: Flow, context: Context, caused_by: UUID) -> Iterator[UncommittedEvent]:
    yield context.uncommitted(
        Ref(Kind.AUCTION, flow.facts.auction_id), events.AuctionSettled(saga_id=flow.saga_id), caused_by
    )


def _compensated(flow: Flow, reason: str, context: Context, caused_by: UUID) -> Iterator[UncommittedEvent]:
    """Winner and seller are notified, each by a saga of its own, so that one silent cell does not affect the other."""
    facts: SettlementFacts = flow.facts
    event = events.SettlementFailed(saga_id=flow.saga_id, failure_reason=reason)
    failed = context.uncommitted(Ref(Kind.AUCTION, facts.auction_id), event, caused_by)
    yield failed
    unlocked = events.AssetLockReleased(auction_id=facts.auction_id)
    yield context.uncommitted(Ref(Kind.ASSET, facts.asset_id), unlocked, failed.event_id)
    parties = (("winner", facts.winner_id, facts.winner_cell), ("seller", facts.seller_id, facts.seller_cell))
    for party, user_id, user_cell in parties:
        notice = NoticeFacts(
            **facts.amount.fields,
            auction_id=facts.auction_id,
            auction_cell=facts.auction_cell,
            user_id=user_id,
            user_cell=user_cell,
            notice=f"SETTLEMENT_FAILED_FOR_{party.upper()}",
        )
        saga_id = derived_id(flow.saga_id, f"notice/{party}")
        yield started(notice, saga_id, context, deadline_ms=None, caused_by=failed.event_id)


# --- a party has moved ------------------------------------------------------------------------------------------------


def _paid_out_anew(flow: Flow, cell: str) -> tuple[Ref, tuple[events.AnyEvent, ...]]:
    """The seller has moved: money paid out to the old home comes back, and goes to the new one."""
    facts, amount, clearing_id = flow.facts, _amount(flow), flow.clearing_id("credit")
    return Ref(Kind.AUCTION, facts.auction_id), (
        events.EscrowRefilled(**amount.fields, from_cell=facts.seller_cell, clearing_id=clearing_id),
        events.EscrowPaidOut(**amount.fields, to_cell=cell, clearing_id=clearing_id),
    )


def _refunded_anew(flow: Flow, cell: str) -> tuple[Ref, tuple[events.AnyEvent, ...]]:
    """The winner has moved after the money had left the old home: it is accepted here, and returned at the new one.

    This holds whether or not it had been here before (and was refunded): either way the old home's side is balanced.
    """
    facts, amount, clearing_id = flow.facts, _amount(flow), flow.clearing_id("escrow")
    return Ref(Kind.AUCTION, facts.auction_id), (
        events.EscrowFunded(**amount.fields, from_cell=facts.winner_cell, clearing_id=clearing_id),
        events.EscrowRefunded(**amount.fields, to_cell=cell, clearing_id=clearing_id),
    )


def _amount(flow: Flow) -> Money:
    facts: SettlementFacts = flow.facts
    return facts.amount


# --- the declaration --------------------------------------------------------------------------------------------------

PIN = Effect(
    action=commands.PinHold, apply=_pin, undo=free, undoes_untaken=_is_held, foreign=True, askable=require_own_auction
)
ESCROW_OUT = Effect(
    action=commands.SendToEscrow, apply=_send, undo=_return, foreign=True, claims="to_cell", askable=require_own_auction
)
ESCROW_IN = Effect(action=commands.ReceiveEscrow, apply=_receive, undo=_refund, stream=AUCTION)
CREDIT_OUT = Effect(action=commands.PayOutEscrow, apply=_pay_out, undo=_refill, stream=AUCTION)
CREDIT_IN = Effect(
    action=commands.CreditPending,
    apply=_credit,
    undo=_reverse,
    foreign=True,
    claims="from_cell",
    askable=_require_not_settled,
    counterpart=_settle_of,
)
OWNERSHIP = Effect(action=commands.TransferOwnership, apply=_transfer, stream=(Kind.ASSET, "asset_id"))
SETTLED = Effect(
    action=commands.SettlePending, apply=_settle, foreign=True, askable=_require_credited, counterpart=_credit_of
)

WINNER, SELLER = {"user_id": "winner_id"}, {"user_id": "seller_id"}
SETTLEMENT_LEGS = (
    LegSpec(leg="pin", at="winner_cell", effect=PIN, given=WINNER),
    LegSpec(
        leg="escrow-out",
        at="winner_cell",
        effect=ESCROW_OUT,
        given=WINNER | {"to_cell": "auction_cell"},
        clearing="escrow",
    ),
    LegSpec(
        leg="escrow-in", at="auction_cell", effect=ESCROW_IN, given={"from_cell": "winner_cell"}, clearing="escrow"
    ),
    LegSpec(
        leg="credit-out", at="auction_cell", effect=CREDIT_OUT, given={"to_cell": "seller_cell"}, clearing="credit"
    ),
    LegSpec(
        leg=CREDIT, at="seller_cell", effect=CREDIT_IN, given=SELLER | {"from_cell": "auction_cell"}, clearing="credit"
    ),
    LegSpec(
        leg="ownership",
        at="auction_cell",
        effect=OWNERSHIP,
        given={"from_user_id": "seller_id", "to_user_id": "winner_id", "to_cell": "winner_cell"},
        pivot=True,
    ),
    LegSpec(leg=SETTLE, at="seller_cell", effect=SETTLED, given=SELLER),
    LegSpec(
        leg="notify-winner",
        at="winner_cell",
        effect=NOTIFY,
        given=WINNER,
        fixed={"notice": "AUCTION_WON"},
        best_effort=True,
    ),
    LegSpec(
        leg="notify-seller",
        at="seller_cell",
        effect=NOTIFY,
        given=SELLER,
        fixed={"notice": "ASSET_SOLD"},
        best_effort=True,
    ),
)

SETTLEMENT = SagaDefinition(
    kind=SagaKind.SETTLEMENT,
    title="settlement",
    facts=SettlementFacts,
    versions={1: SETTLEMENT_LEGS},
    party="winner_id",
    needs=(AUCTION, (Kind.ASSET, "asset_id")),
    completed=_completed,
    compensated=_compensated,
    redirects={
        (CREDIT, Direction.ACTION): _paid_out_anew,
        ("escrow-out", Direction.COMPENSATION): _refunded_anew,
    },
)
