"""The effect of each leg of a saga in the cell that takes it, and how it is undone.

The barrier comes first (after dtm): a duplicate gets the first answer, a compensation that comes before its action
only leaves a tombstone, and the action that comes after it is refused.
"""

from typing import assert_never, get_args
from uuid import UUID

from cells.domain import escrow_rules
from cells.domain.account.barrier import LegCommand, barrier_id, barrier_of, require_sent_since_arrival
from cells.domain.account.ledger_rules import (
    holds_bid,
    release_bid,
    require_room,
    require_room_to_return,
    reserve_for_bid,
)
from cells.domain.auction.auction import Auction, Bid
from cells.domain.auction.auction_rules import auction_of, bid_placed, free_bid, require_acceptable
from cells.domain.commands import (
    ApplyLeg,
    CompensateLeg,
    CreditPending,
    LegAction,
    NotifyParty,
    PayOutEscrow,
    PinHold,
    ReceiveEscrow,
    ReceiveTransfer,
    ReleaseBid,
    ReserveForBid,
    SendToEscrow,
    SendTransfer,
    SettlePending,
    SubmitBid,
    TransferOwnership,
)
from cells.domain.decision import Context, Decision, UncommittedEvent, View, account_of
from cells.domain.events import (
    AnyEvent,
    EscrowReturned,
    EscrowSent,
    HoldPinned,
    LegTombstoned,
    OwnershipTransferred,
    PartyNotified,
    PendingCredited,
    PendingReversed,
    PendingSettled,
)
from cells.domain.moves import move_rules
from cells.domain.moves.commands import AnnounceMove, ArriveUser, DepartUser, LeaveUser, MoveAction, StopFlows, TellHome
from cells.domain.refusals import (
    AssetNotFound,
    BidExpired,
    HoldNotPinnable,
    LegCancelled,
    NotTheOwner,
    PendingTooSmall,
)
from cells.domain.sagas import transfer_rules
from cells.domain.sagas.leg import LegResult
from cells.domain.values import Direction, Kind, LegId, LegTag, Money, Ref

# Legs whose effect stays: their compensation only determines whether they have happened or never will.
PIVOTS = (
    TransferOwnership,
    SubmitBid,
    ReleaseBid,
    ReceiveTransfer,
    SettlePending,
    NotifyParty,
    ArriveUser,
    LeaveUser,
    TellHome,
)
MOVES = get_args(MoveAction)


def apply_leg(command: ApplyLeg, view: View, context: Context) -> Decision:
    barrier = barrier_of(command, view, context.cell)
    if barrier.action is not None:
        return _answer(LegResult.APPLIED, barrier.action.event_id)
    if barrier.compensation is not None:
        raise LegCancelled(leg=command.leg_id.leg, saga_id=str(command.leg_id.saga_id))
    require_sent_since_arrival(command, view)
    aggregate, event, further = _action(command.action, command.leg_id, view, context)
    effect = UncommittedEvent(
        event_id=context.new_event_id(),
        aggregate=aggregate,
        event=event,
        leg=_tag(command, Direction.ACTION, context),
    )
    decision = _answer(LegResult.APPLIED, effect.event_id)
    decision.uncommitted.append(effect)
    if isinstance(command.action, MOVES):
        decision.extend(
            move_rules.secondary_events(command.action, command.leg_id, view, context, caused_by=effect.event_id)
        )
    if further is not None:
        bid, auction_id, auction = further
        decision.uncommitted.append(free_bid(bid, auction_id, auction, view, context, caused_by=effect.event_id))
    return decision


def compensate_leg(command: CompensateLeg, view: View, context: Context) -> Decision:
    barrier = barrier_of(command, view, context.cell)
    if barrier.compensation is not None:
        return _answer(barrier.compensation.result, barrier.compensation.event_id)
    if barrier.action is not None and isinstance(command.action, PIVOTS):
        return _answer(LegResult.APPLIED, barrier.action.event_id)
    # The winning bid's hold is older than the settlement: it is released even if it was never pinned. If the user has
    # moved since, another home may have released it: then there is nothing to undo here.
    nothing_to_undo = barrier.action is None and not _is_held(command.action, view)
    aggregate, event = (
        _tombstone(command, context)
        if nothing_to_undo
        else _compensation(command.action, command.leg_id, view, context)
    )
    effect = UncommittedEvent(
        event_id=context.new_event_id(),
        aggregate=aggregate,
        event=event,
        leg=_tag(command, Direction.COMPENSATION, context),
    )
    result = LegResult.TOMBSTONED if nothing_to_undo else LegResult.UNDONE
    decision = _answer(result, effect.event_id)
    decision.uncommitted.append(effect)
    if isinstance(command.action, MOVES) and not nothing_to_undo:
        leg_id = command.leg_id
        decision.extend(
            move_rules.secondary_events_undone(command.action, leg_id, view, context, caused_by=effect.event_id)
        )
    return decision


def _answer(result: LegResult, event_id: UUID) -> Decision:
    return Decision(result={"result": result.value, "event_id": str(event_id)})


def _tag(command: LegCommand, direction: Direction, context: Context) -> LegTag:
    own = command.orchestrator == context.cell
    return LegTag(command.leg_id, direction, None if own else barrier_id(command, context.cell))


def _tombstone(command: LegCommand, context: Context) -> tuple[Ref, AnyEvent]:
    leg_id = command.leg_id
    event = LegTombstoned(saga_id=leg_id.saga_id, leg=leg_id.leg, generation=leg_id.generation)
    return Ref(Kind.LEG, barrier_id(command, context.cell)), event


Outbid = tuple[Bid, UUID, Auction] | None


def _action(action: LegAction, leg_id: LegId, view: View, context: Context) -> tuple[Ref, AnyEvent, Outbid]:
    """The stream and event of a leg's effect, and the bid that it outbids, if any."""
    match action:
        case PinHold():
            return _account(action.user_id), _pin(action, leg_id, view), None
        case SendToEscrow():
            return _account(action.user_id), _send(action, leg_id, view), None
        case ReceiveEscrow():
            return *escrow_rules.receive(action, view, context), None
        case PayOutEscrow():
            return *escrow_rules.pay_out(action, view, context), None
        case CreditPending():
            return _account(action.user_id), _credit(action, view), None
        case TransferOwnership():
            return Ref(Kind.ASSET, action.asset_id), _transfer(action, view, context), None
        case SettlePending():
            return _account(action.user_id), _settle(action, view), None
        case NotifyParty():
            return _account(action.user_id), _notified(action, view), None
        case ReserveForBid():
            return _account(action.user_id), _reserve(action, view), None
        case SubmitBid():
            return _submit(action, view, context)
        case ReleaseBid():
            return _account(action.user_id), _release(action, view), None
        case SendTransfer():
            return _account(action.user_id), transfer_rules.send(action, leg_id.saga_id, view), None
        case ReceiveTransfer():
            return _account(action.user_id), transfer_rules.receive(action, leg_id.saga_id, view, context), None
        case AnnounceMove() | StopFlows() | DepartUser() | ArriveUser() | LeaveUser() | TellHome():
            return _account(action.user_id), move_rules.effect(action, leg_id, view, context), None
        case _:
            assert_never(action)


def _compensation(action: LegAction, leg_id: LegId, view: View, context: Context) -> tuple[Ref, AnyEvent]:
    match action:
        case PinHold() | ReserveForBid():
            return _account(action.user_id), _free(action, view)
        case SendToEscrow():
            return _account(action.user_id), _return(action, leg_id, view)
        case ReceiveEscrow():
            return escrow_rules.refund(action, view, context)
        case PayOutEscrow():
            return escrow_rules.refill(action, view, context)
        case CreditPending():
            return _account(action.user_id), _reverse(action, view)
        case SendTransfer():
            return _account(action.user_id), transfer_rules.take_back(action, leg_id.saga_id, view)
        case AnnounceMove() | StopFlows() | DepartUser() | ArriveUser() | LeaveUser() | TellHome():
            return _account(action.user_id), move_rules.undone(action, leg_id, view)
        case TransferOwnership() | SettlePending() | NotifyParty() | SubmitBid() | ReleaseBid() | ReceiveTransfer():
            message = f"{type(action).__name__} is not undone once applied"
            raise TypeError(message)
        case _:
            assert_never(action)


def _account(user_id: UUID) -> Ref:
    return Ref(Kind.ACCOUNT, user_id)


def _pin(action: PinHold, leg_id: LegId, view: View) -> HoldPinned:
    hold = account_of(view, action.user_id).holds.get(action.auction_id)
    if hold is None or hold.saga_id is not None or not hold.backs(action.bid_id, action.amount):
        raise _not_pinnable(action)
    return HoldPinned(hold_id=action.auction_id, bid_id=action.bid_id, saga_id=leg_id.saga_id)


def _send(action: SendToEscrow, leg_id: LegId, view: View) -> EscrowSent:
    hold = account_of(view, action.user_id).holds.get(action.auction_id)
    if hold is None or hold.saga_id != leg_id.saga_id or not hold.backs(action.bid_id, action.amount):
        raise _not_pinnable(action)
    return EscrowSent(
        hold_id=action.auction_id,
        bid_id=action.bid_id,
        currency=action.amount.currency,
        amount_minor=action.amount.amount_minor,
        # Bidding is over: the amount that other, unresolved bids of the winner held beyond the winning one is free.
        released_minor=hold.amount_minor - action.amount.amount_minor,
        to_cell=action.to_cell,
        clearing_id=action.clearing_id,
    )


def _not_pinnable(action: PinHold | SendToEscrow) -> HoldNotPinnable:
    return HoldNotPinnable(
        bid_id=str(action.bid_id), auction_id=str(action.auction_id), amount_minor=action.amount.amount_minor
    )


def _return(action: SendToEscrow, leg_id: LegId, view: View) -> EscrowReturned:
    # A compensation repeats the action; one with different content may name something that does not exist.
    require_room_to_return(account_of(view, action.user_id), action.amount)
    return EscrowReturned(
        hold_id=action.auction_id,
        bid_id=action.bid_id,
        saga_id=leg_id.saga_id,
        currency=action.amount.currency,
        amount_minor=action.amount.amount_minor,
        from_cell=action.to_cell,
        clearing_id=action.clearing_id,
    )


def _is_held(action: LegAction, view: View) -> bool:
    return isinstance(action, PinHold) and holds_bid(account_of(view, action.user_id), action.auction_id, action.bid_id)


def _free(action: PinHold | ReserveForBid, view: View) -> AnyEvent:
    account, currency = account_of(view, action.user_id), action.amount.currency
    return release_bid(account, auction_id=action.auction_id, bid_id=action.bid_id, currency=currency)


def _credit(action: CreditPending, view: View) -> PendingCredited:
    require_room(account_of(view, action.user_id), action.amount)
    return PendingCredited(
        auction_id=action.auction_id,
        currency=action.amount.currency,
        amount_minor=action.amount.amount_minor,
        from_cell=action.from_cell,
        clearing_id=action.clearing_id,
    )


def _reverse(action: CreditPending, view: View) -> PendingReversed:
    _require_pending(action.user_id, action.amount, view)
    return PendingReversed(
        auction_id=action.auction_id,
        currency=action.amount.currency,
        amount_minor=action.amount.amount_minor,
        to_cell=action.from_cell,
        clearing_id=action.clearing_id,
    )


def _settle(action: SettlePending, view: View) -> PendingSettled:
    _require_pending(action.user_id, action.amount, view)
    return PendingSettled(
        auction_id=action.auction_id,
        currency=action.amount.currency,
        amount_minor=action.amount.amount_minor,
        fee_minor=action.fee_minor,
    )


def _require_pending(user_id: UUID, amount: Money, view: View) -> None:
    pending = account_of(view, user_id).balance(amount.currency).pending_minor
    if pending < amount.amount_minor:
        raise PendingTooSmall(user_id=str(user_id), pending_minor=pending, amount_minor=amount.amount_minor)


def _transfer(action: TransferOwnership, view: View, context: Context) -> OwnershipTransferred:
    asset = view.asset(action.asset_id)
    if asset is None:
        raise AssetNotFound(asset_id=str(action.asset_id), cell=context.cell)
    if asset.owner_id != action.from_user_id or asset.locked_by != action.auction_id:
        raise NotTheOwner(asset_id=str(action.asset_id), user_id=str(action.from_user_id))
    return OwnershipTransferred(
        auction_id=action.auction_id,
        from_user_id=action.from_user_id,
        to_user_id=action.to_user_id,
        to_cell=action.to_cell,
    )


def _notified(action: NotifyParty, view: View) -> PartyNotified:
    account_of(view, action.user_id)
    return PartyNotified(auction=action.auction, notice=action.notice, status=action.status)


def _reserve(action: ReserveForBid, view: View) -> AnyEvent:
    return reserve_for_bid(
        account_of(view, action.user_id),
        auction_id=action.auction_id,
        auction_cell=action.auction_cell,
        bid_id=action.bid_id,
        amount=action.amount,
    )


def _submit(action: SubmitBid, view: View, context: Context) -> tuple[Ref, AnyEvent, Outbid]:
    auction = auction_of(view, action.auction_id, context)
    if context.now_ms > action.valid_until_ms:
        raise BidExpired(valid_until_ms=action.valid_until_ms, now_ms=context.now_ms)
    bid = Bid(
        bid_id=action.bid_id,
        bidder_id=action.bidder_id,
        bidder_cell=action.bidder_cell,
        amount_minor=action.amount.amount_minor,
    )
    require_acceptable(auction, action.auction_id, bid, action.amount.currency, context)
    outbid = None if auction.highest_bid is None else (auction.highest_bid, action.auction_id, auction)
    return Ref(Kind.AUCTION, action.auction_id), bid_placed(auction, bid, context), outbid


def _release(action: ReleaseBid, view: View) -> AnyEvent:
    return release_bid(
        account_of(view, action.user_id),
        auction_id=action.auction_id,
        bid_id=action.bid_id,
        currency=action.currency,
    )
