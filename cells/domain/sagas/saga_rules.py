"""The progress of a saga: its next leg, the action of that leg, and the effect of its result."""

from collections.abc import Iterator
from typing import assert_never
from uuid import UUID

from cells.domain.account.ledger_rules import balance_result
from cells.domain.commands import (
    CreditPending,
    FailSaga,
    LegAction,
    MoveParty,
    NotifyParty,
    PayOutEscrow,
    PinHold,
    ReceiveEscrow,
    RecordLeg,
    ReleaseBid,
    ReserveForBid,
    SagaProgress,
    SendToEscrow,
    SettlePending,
    SkipLeg,
    SubmitBid,
    TransferOwnership,
)
from cells.domain.decision import Context, Decision, Ending, UncommittedEvent, View, account_of
from cells.domain.events import (
    AnyEvent,
    AssetLockReleased,
    AuctionSettled,
    MoveFacts,
    NoticeFacts,
    ReleaseFacts,
    RemoteBidFacts,
    SagaCompensated,
    SagaCompensationStarted,
    SagaCompleted,
    SagaEvents,
    SagaLegCompensated,
    SagaLegCompleted,
    SagaLegSkipped,
    SagaPivotFoundDone,
    SettlementFacts,
    SettlementFailed,
    TransferFacts,
)
from cells.domain.moves import move_rules
from cells.domain.moves.refusals import MoveExpired
from cells.domain.refusals import BidExpired, Refused, SagaNotFound, TransferExpired, refusal
from cells.domain.sagas import party_rules, transfer_rules
from cells.domain.sagas.leg import LegResult
from cells.domain.sagas.saga import Saga, SagaState, evolve_saga
from cells.domain.sagas.saga_refusals import SagaOverdue
from cells.domain.sagas.saga_start import started
from cells.domain.values import Direction, Kind, LegId, Money, Ref, derived_id

DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"


def action_of(saga: Saga, saga_id: UUID) -> LegAction:
    """The action of the leg at the cursor.

    Raises:
        ValueError: no leg is left.
    """
    spec = saga.current
    if spec is None:
        message = f"saga {saga_id} has no leg left to take"
        raise ValueError(message)
    match saga.facts:
        case SettlementFacts():
            return _settlement_action(spec.leg, saga.facts, saga_id, saga.generation)
        case RemoteBidFacts():
            return _remote_bid_action(spec.leg, saga.facts)
        case ReleaseFacts():
            return _release_action(saga.facts)
        case TransferFacts():
            return transfer_rules.action(spec.leg, saga.facts, saga_id, saga.generation)
        case NoticeFacts():
            return _notice(saga.facts, saga.facts.user_id, saga.facts.notice)
        case MoveFacts():
            return move_rules.action(spec.leg, saga.facts)
        case _:
            assert_never(saga.facts)


def leg_id_of(saga: Saga, saga_id: UUID) -> LegId:
    spec = saga.current
    return LegId(saga_id, spec.leg if spec else "", saga.generation)


def on_behalf_of(saga: Saga) -> UUID:
    """The person for whom the current leg is taken: the one who is credited, or else who bids or pays."""
    match saga.facts:
        case SettlementFacts():
            sellers = {"credit-in", "settle", "notify-seller"}
            spec = saga.current
            return saga.facts.seller_id if spec and spec.leg in sellers else saga.facts.winner_id
        case RemoteBidFacts() | ReleaseFacts():
            return saga.facts.bidder_id
        case TransferFacts():
            spec = saga.current
            return saga.facts.to_user_id if spec and spec.leg == "receive" else saga.facts.from_user_id
        case NoticeFacts() | MoveFacts():
            return saga.facts.user_id
        case _:
            assert_never(saga.facts)


def _settlement_action(leg: str, facts: SettlementFacts, saga_id: UUID, generation: int) -> LegAction:
    match leg:
        case "pin" | "escrow-out" | "escrow-in":
            return _towards_escrow(leg, facts, derived_id(saga_id, f"clearing/escrow/{generation}"))
        case "credit-out" | "credit-in" | "settle":
            return _towards_seller(leg, facts, derived_id(saga_id, f"clearing/credit/{generation}"))
        case "ownership":
            return TransferOwnership(
                asset_id=facts.asset_id,
                auction_id=facts.auction_id,
                from_user_id=facts.seller_id,
                to_user_id=facts.winner_id,
                to_cell=facts.winner_cell,
            )
        case "notify-winner":
            return _notice(facts, facts.winner_id, "AUCTION_WON")
        case "notify-seller":
            return _notice(facts, facts.seller_id, "ASSET_SOLD")
        case _:
            raise ValueError(f"a settlement has no leg {leg!r}")


def _towards_escrow(leg: str, facts: SettlementFacts, clearing_id: UUID) -> LegAction:
    amount = Money(facts.currency, facts.amount_minor)
    if leg == "pin":
        return PinHold(user_id=facts.winner_id, auction_id=facts.auction_id, bid_id=facts.bid_id, amount=amount)
    if leg == "escrow-out":
        return SendToEscrow(
            user_id=facts.winner_id,
            auction_id=facts.auction_id,
            bid_id=facts.bid_id,
            amount=amount,
            to_cell=facts.auction_cell,
            clearing_id=clearing_id,
        )
    return ReceiveEscrow(
        auction_id=facts.auction_id, amount=amount, from_cell=facts.winner_cell, clearing_id=clearing_id
    )


def _towards_seller(leg: str, facts: SettlementFacts, clearing_id: UUID) -> LegAction:
    amount = Money(facts.currency, facts.amount_minor)
    if leg == "credit-out":
        return PayOutEscrow(
            auction_id=facts.auction_id, amount=amount, to_cell=facts.seller_cell, clearing_id=clearing_id
        )
    if leg == "credit-in":
        return CreditPending(
            user_id=facts.seller_id,
            auction_id=facts.auction_id,
            amount=amount,
            from_cell=facts.auction_cell,
            clearing_id=clearing_id,
        )
    return SettlePending(user_id=facts.seller_id, auction_id=facts.auction_id, amount=amount, fee_minor=facts.fee_minor)


def _notice(facts: SettlementFacts | NoticeFacts, user_id: UUID, notice: str) -> NotifyParty:
    auction = f"cells/{facts.auction_cell}/auctions/{facts.auction_id}"
    return NotifyParty(
        user_id=user_id, auction=auction, amount=Money(facts.currency, facts.amount_minor), notice=notice
    )


def _remote_bid_action(leg: str, facts: RemoteBidFacts) -> LegAction:
    amount = Money(facts.currency, facts.amount_minor)
    if leg == "reserve":
        return ReserveForBid(
            user_id=facts.bidder_id,
            auction_id=facts.auction_id,
            bid_id=facts.bid_id,
            amount=amount,
            auction_cell=facts.auction_cell,
        )
    return SubmitBid(
        auction_id=facts.auction_id,
        bid_id=facts.bid_id,
        bidder_id=facts.bidder_id,
        bidder_cell=facts.bidder_cell,
        amount=amount,
        valid_until_ms=facts.valid_until_ms,
    )


def _release_action(facts: ReleaseFacts) -> LegAction:
    return ReleaseBid(
        user_id=facts.bidder_id,
        auction_id=facts.auction_id,
        bid_id=facts.bid_id,
        currency=facts.currency,
    )


def progress_saga(command: SagaProgress, view: View, context: Context) -> Decision:
    """Records the result of a leg. A result for a leg that is not the current one is outdated and has no effect."""
    saga_id = command.leg_id.saga_id
    saga = view.saga(saga_id)
    if saga is None:
        raise SagaNotFound(saga_id=str(saga_id), cell=context.cell)
    if saga.ended or leg_id_of(saga, saga_id) != command.leg_id:
        return Decision()
    event = _progress(command, saga, context)
    if event is None:
        return Decision()
    caused_by = command.effect_id if isinstance(command, RecordLeg) else saga.last_event_id
    decision = advanced(saga, saga_id, event, view, context, caused_by=caused_by)
    if isinstance(command, MoveParty):
        decision.extend(
            party_rules.redirect_to_new_home(
                saga, saga_id, command, context, caused_by=decision.uncommitted[0].event_id
            )
        )
    return decision


def leg_taken(news: RecordLeg, view: View, context: Context) -> Decision:
    """The progress of a saga of this cell whose leg was taken here: recorded in the leg's own commit."""
    saga_id = news.leg_id.saga_id
    saga = view.saga(saga_id)
    if saga is None or saga.ended or leg_id_of(saga, saga_id) != news.leg_id:
        return Decision()
    event = _recorded(news, saga, context)
    return Decision() if event is None else advanced(saga, saga_id, event, view, context, caused_by=news.effect_id)


def require_in_time(leg_id: LegId, view: View, context: Context) -> None:
    """Raises SagaOverdue for a new leg of a saga of this cell whose deadline has passed."""
    saga = view.saga(leg_id.saga_id)
    if saga is None or saga.state is not SagaState.RUNNING or saga.deadline_ms is None:
        return
    if context.now_ms >= saga.deadline_ms and view.leg(leg_id.aggregate_id()).action is None:
        raise SagaOverdue(saga_id=str(leg_id.saga_id), deadline_ms=saga.deadline_ms, now_ms=context.now_ms)


def _progress(command: SagaProgress, saga: Saga, context: Context) -> SagaEvents | None:
    match command:
        case RecordLeg():
            return _recorded(command, saga, context)
        case SkipLeg():
            return SagaLegSkipped(
                leg=command.leg_id.leg,
                generation=command.leg_id.generation,
                failure_reason=command.failure_reason,
            )
        case FailSaga():
            return _failed(command, saga, context)
        case MoveParty():
            return party_rules.moved(command, saga)
        case _:
            assert_never(command)


def _recorded(command: RecordLeg, saga: Saga, context: Context) -> SagaEvents | None:
    """None for an answer to an outdated request: an operator may compensate a saga while a leg is under way.

    The compensation then finds and undoes whatever that leg has done.
    """
    leg, generation = command.leg_id.leg, command.leg_id.generation
    applied = command.result == LegResult.APPLIED.value
    undoing = saga.state is SagaState.COMPENSATING
    if undoing != (command.direction is Direction.COMPENSATION):
        return None
    if not undoing:
        until_ms = move_rules.deadline_after(leg, context) if isinstance(saga.facts, MoveFacts) else None
        return SagaLegCompleted(leg=leg, generation=generation, effect_id=command.effect_id, valid_until_ms=until_ms)
    if applied:
        return SagaPivotFoundDone(leg=leg, generation=generation, effect_id=command.effect_id)
    return SagaLegCompensated(leg=leg, generation=generation, result=command.result, effect_id=command.effect_id)


def _failed(command: FailSaga, saga: Saga, context: Context) -> SagaCompensationStarted | None:
    """Only a saga before its pivot can be compensated, and for its deadline only once that has passed here."""
    if saga.state is not SagaState.RUNNING or saga.deadline_ms is None:
        return None
    facts = command.failure_facts
    if command.failure_reason == DEADLINE_EXCEEDED:
        if context.now_ms < saga.deadline_ms:
            return None
        facts = {"valid_until_ms": str(saga.deadline_ms), "now_ms": str(context.now_ms)}
    return SagaCompensationStarted(
        leg=command.leg_id.leg,
        failure_reason=command.failure_reason,
        failure_message=command.failure_message,
        failure_facts=facts,
        covers_leg=command.covers_leg,
    )


def advanced(
    saga: Saga, saga_id: UUID, event: SagaEvents, view: View, context: Context, *, caused_by: UUID | None
) -> Decision:
    """`event` and, if nothing is left to do, the saga's end with its further events."""
    ref = Ref(Kind.SAGA, saga_id)
    step = _uncommitted(context, ref, event, caused_by)
    decision = Decision(uncommitted=[step])
    saga = evolve_saga(saga, event, step.event_id)
    if saga.current is not None:
        return decision
    if saga.state is SagaState.COMMITTED:
        end = _uncommitted(context, ref, SagaCompleted(), step.event_id)
        decision.uncommitted.append(end)
        _complete(decision, saga, saga_id, view, context, caused_by=end.event_id)
    elif saga.state is SagaState.COMPENSATING:
        end = _uncommitted(context, ref, SagaCompensated(failure_reason=saga.failure_reason), step.event_id)
        decision.uncommitted.append(end)
        _roll_back(decision, saga, saga_id, context, end.event_id)
    return decision


def _complete(decision: Decision, saga: Saga, saga_id: UUID, view: View, context: Context, *, caused_by: UUID) -> None:
    match saga.facts:
        case SettlementFacts():
            settled = AuctionSettled(saga_id=saga_id)
            auction = Ref(Kind.AUCTION, saga.facts.auction_id)
            decision.uncommitted.append(_uncommitted(context, auction, settled, caused_by))
        case RemoteBidFacts():
            result = {"bid_id": str(saga.facts.bid_id)}
            decision.endings.append(Ending(command_id=saga.facts.command_id, saga_id=saga_id, result=result))
        case TransferFacts():
            balance = account_of(view, saga.facts.from_user_id).balance(saga.facts.currency)
            result = balance_result(balance, saga.facts.currency)
            decision.endings.append(Ending(command_id=saga.facts.command_id, saga_id=saga_id, result=result))
        case MoveFacts():
            result = move_rules.moved_result(saga.facts.to_cell, saga.facts.epoch, saga_id)
            decision.endings.append(Ending(command_id=saga.facts.command_id, saga_id=saga_id, result=result))
        case ReleaseFacts() | NoticeFacts():
            pass
        case _:
            assert_never(saga.facts)


def _roll_back(decision: Decision, saga: Saga, saga_id: UUID, context: Context, caused_by: UUID) -> None:
    match saga.facts:
        case SettlementFacts():
            failed = SettlementFailed(saga_id=saga_id, failure_reason=saga.failure_reason)
            auction = Ref(Kind.AUCTION, saga.facts.auction_id)
            event_draft = _uncommitted(context, auction, failed, caused_by)
            unlocked = AssetLockReleased(auction_id=saga.facts.auction_id)
            asset = Ref(Kind.ASSET, saga.facts.asset_id)
            decision.extend([event_draft, _uncommitted(context, asset, unlocked, event_draft.event_id)])
            decision.extend(_tell_of_failure(saga.facts, saga_id, context, caused_by=event_draft.event_id))
        case RemoteBidFacts() | TransferFacts() | MoveFacts():
            refusal = failure_of(saga)
            decision.endings.append(
                Ending(command_id=saga.facts.command_id, saga_id=saga_id, result={}, refusal=refusal)
            )
        case ReleaseFacts() | NoticeFacts():
            pass
        case _:
            assert_never(saga.facts)


def _tell_of_failure(
    facts: SettlementFacts, saga_id: UUID, context: Context, *, caused_by: UUID
) -> Iterator[UncommittedEvent]:
    """Notifies winner and seller, each by a saga of its own, so that one silent cell does not affect the other."""
    parties = (("winner", facts.winner_id, facts.winner_cell), ("seller", facts.seller_id, facts.seller_cell))
    for party, user_id, user_cell in parties:
        notice = NoticeFacts(
            auction_id=facts.auction_id,
            auction_cell=facts.auction_cell,
            user_id=user_id,
            user_cell=user_cell,
            notice=f"SETTLEMENT_FAILED_FOR_{party.upper()}",
            currency=facts.currency,
            amount_minor=facts.amount_minor,
        )
        yield started(notice, derived_id(saga_id, f"notice/{party}"), context, deadline_ms=None, caused_by=caused_by)


def failure_of(saga: Saga) -> Refused:
    """The reason of the compensation, as the refusal for the user who began the saga."""
    match saga.facts:
        case TransferFacts():
            expired: type[Refused] = TransferExpired
        case MoveFacts():
            expired = MoveExpired
        case _:
            expired = BidExpired
    reason = expired.reason if saga.failure_reason == DEADLINE_EXCEEDED else saga.failure_reason
    return refusal(reason, saga.failure_facts)


def _uncommitted(context: Context, aggregate: Ref, event: AnyEvent, caused_by: UUID | None) -> UncommittedEvent:
    return UncommittedEvent(event_id=context.new_event_id(), aggregate=aggregate, event=event, caused_by=caused_by)
