"""The progress of a saga: its next leg, the effect of that leg's result, its ends, and an operator's orders."""

from typing import assert_never
from uuid import UUID

from cells.domain import commands
from cells.domain.decision import Context, Decision, Ending, UncommittedEvent, View
from cells.domain.record import replace
from cells.domain.refusals import Refused, SagaNotFound, refusal
from cells.domain.results import Result
from cells.domain.sagas import saga_events, saga_refusals
from cells.domain.sagas.leg import LegResult
from cells.domain.sagas.move import deadline_after
from cells.domain.sagas.saga import Saga, SagaState, evolve_saga, moved_facts, party_of
from cells.domain.values import Direction, Kind, LegId, Ref

DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"


def action_of(saga: Saga, saga_id: UUID) -> commands.LegAction:
    """The action of the leg at the cursor.

    Raises:
        ValueError: no leg is left.
    """
    spec = saga.current
    if spec is None:
        message = f"saga {saga_id} has no leg left to take"
        raise ValueError(message)
    return spec.action(saga.flow(saga_id))


def leg_id_of(saga: Saga, saga_id: UUID) -> LegId:
    spec = saga.current
    return LegId(saga_id, spec.leg if spec else "", saga.generation)


def on_behalf_of(saga: Saga) -> UUID:
    """The person for whom the current leg is taken: the one at whose home it is, or else who bids, wins or pays."""
    party = party_of(saga, saga.current.leg) if saga.current else None
    return party or getattr(saga.facts, saga.definition.party)


def progress_saga(command: commands.SagaProgress, view: View, context: Context) -> Decision:
    """Records the result of a leg. A result for a leg that is not the current one is outdated and has no effect."""
    saga_id = command.leg_id.saga_id
    saga = _known(saga_id, view, context)
    if saga.ended or leg_id_of(saga, saga_id) != command.leg_id:
        return Decision()
    event = _progress(command, saga, context)
    if event is None:
        return Decision()
    caused_by = command.mark.event_id if isinstance(command, commands.RecordLeg) else saga.last_event_id
    decision = advanced(saga, saga_id, event, view, context, caused_by=caused_by)
    redirect = saga.definition.redirects.get((command.leg_id.leg, saga.direction))
    if isinstance(command, commands.MoveParty) and redirect is not None:
        # Each pair of cells has both sides of every movement between them. Money that was sent to the old home and
        # never accepted there is called back and sent to the new one, in one commit.
        ref, redone = redirect(saga.flow(saga_id), command.cell)
        moved = decision.uncommitted[0].event_id
        further = [context.uncommitted(ref, each, moved) for each in redone]
        decision.extend(replace(each, correlation_id=saga_id) for each in further)
    return decision


def leg_taken(news: commands.RecordLeg, view: View, context: Context) -> Decision:
    """The progress of a saga of this cell whose leg was taken here: recorded in the leg's own commit."""
    saga_id = news.leg_id.saga_id
    saga = view.saga(saga_id)
    if saga is None or saga.ended or leg_id_of(saga, saga_id) != news.leg_id:
        return Decision()
    event = _recorded(news, saga, context)
    return Decision() if event is None else advanced(saga, saga_id, event, view, context, caused_by=news.mark.event_id)


def require_in_time(leg_id: LegId, view: View, context: Context) -> None:
    """Raises SagaOverdue for a new leg of a saga of this cell whose deadline has passed."""
    saga = view.saga(leg_id.saga_id)
    if saga is None or saga.state is not SagaState.RUNNING or saga.deadline_ms is None:
        return
    if context.now_ms >= saga.deadline_ms and view.leg(leg_id.aggregate_id()).action is None:
        raise saga_refusals.SagaOverdue(
            saga_id=str(leg_id.saga_id), deadline_ms=saga.deadline_ms, now_ms=context.now_ms
        )


def _known(saga_id: UUID, view: View, context: Context) -> Saga:
    saga = view.saga(saga_id)
    if saga is None:
        raise SagaNotFound(saga_id=str(saga_id), cell=context.cell)
    return saga


def _progress(command: commands.SagaProgress, saga: Saga, context: Context) -> saga_events.SagaEvents | None:
    leg, generation = command.leg_id.leg, command.leg_id.generation
    match command:
        case commands.RecordLeg():
            return _recorded(command, saga, context)
        case commands.SkipLeg():
            return saga_events.SagaLegSkipped(leg=leg, generation=generation, failure_reason=command.failure_reason)
        case commands.FailSaga():
            return _failed(command, saga, context)
        case commands.MoveParty():
            return _moved(command, saga)
        case _:
            assert_never(command)


def _recorded(command: commands.RecordLeg, saga: Saga, context: Context) -> saga_events.SagaEvents | None:
    """None for an answer to an outdated request: an operator may compensate a saga while a leg is under way.

    The compensation then finds and undoes whatever that leg has done.
    """
    leg, generation, mark = command.leg_id.leg, command.leg_id.generation, command.mark
    if command.direction is not saga.direction:
        return None
    if command.direction is Direction.ACTION:
        until_ms = deadline_after(leg, context) if isinstance(saga.facts, saga_events.MoveFacts) else None
        return saga_events.SagaLegCompleted(
            leg=leg, generation=generation, effect_id=mark.event_id, valid_until_ms=until_ms
        )
    if mark.result is LegResult.APPLIED:
        return saga_events.SagaPivotFoundDone(leg=leg, generation=generation, effect_id=mark.event_id)
    return saga_events.SagaLegCompensated(
        leg=leg, generation=generation, result=mark.result.value, effect_id=mark.event_id
    )


def _failed(command: commands.FailSaga, saga: Saga, context: Context) -> saga_events.SagaCompensationStarted | None:
    """Only a saga before its pivot can be compensated, and for its deadline only once that has passed here."""
    if saga.state is not SagaState.RUNNING or saga.deadline_ms is None:
        return None
    facts = command.failure_facts
    if command.failure_reason == DEADLINE_EXCEEDED:
        if context.now_ms < saga.deadline_ms:
            return None
        facts = {"valid_until_ms": str(saga.deadline_ms), "now_ms": str(context.now_ms)}
    return saga_events.SagaCompensationStarted(
        leg=command.leg_id.leg,
        failure_reason=command.failure_reason,
        failure_message=command.failure_message,
        failure_facts=facts,
        covers_leg=command.covers_leg,
    )


def _moved(command: commands.MoveParty, saga: Saga) -> saga_events.SagaPartyMoved | None:
    """A person whom the saga concerns has moved: the legs for them go to the new home.

    None if the move is already known, or concerns nobody in the saga, or answers an outdated request. A cell answers
    only for the person it was asked about: it knows nothing of the other party. A leg that a cell refuses has not
    happened there, and the request tells which money is in transit.
    """
    if command.direction is not saga.direction or party_of(saga, command.leg_id.leg) != command.user_id:
        return None
    event = saga_events.SagaPartyMoved(user_id=command.user_id, cell=command.cell, epoch=command.epoch)
    return event if moved_facts(saga.facts, event) != saga.facts else None


def advanced(
    saga: Saga, saga_id: UUID, event: saga_events.SagaEvents, view: View, context: Context, *, caused_by: UUID | None
) -> Decision:
    """`event` and, if nothing is left to do, the saga's end with its further events and its command's answer."""
    ref, definition = Ref(Kind.SAGA, saga_id), saga.definition
    step = context.uncommitted(ref, event, caused_by)
    decision = Decision(uncommitted=[step])
    saga = evolve_saga(saga, event, step.event_id)
    if saga.current is not None or saga.state not in {SagaState.COMMITTED, SagaState.COMPENSATING}:
        return decision
    flow, done = saga.flow(saga_id), saga.state is SagaState.COMMITTED
    end = context.uncommitted(
        ref,
        saga_events.SagaCompleted() if done else saga_events.SagaCompensated(failure_reason=saga.failure_reason),
        step.event_id,
    )
    decision.uncommitted.append(end)
    if done and definition.completed is not None:
        decision.extend(definition.completed(flow, context, end.event_id))
    elif not done and definition.compensated is not None:
        decision.extend(definition.compensated(flow, saga.failure_reason, context, end.event_id))
    if definition.answer is not None:
        result, refused = (definition.answer(flow, view), None) if done else (Result(), failure_of(saga))
        decision.endings.append(
            Ending(command_id=flow.facts.command_id, saga_id=saga_id, result=result, refusal=refused)
        )
    return decision


def failure_of(saga: Saga) -> Refused:
    """The reason of the compensation, as the refusal for the user who began the saga."""
    expired = saga.failure_reason == DEADLINE_EXCEEDED
    return refusal(saga.definition.expired.reason if expired else saga.failure_reason, saga.failure_facts)


# --- an operator's orders: each is an event in the saga's own stream --------------------------------------------------


def order_saga(command: commands.SagaOrder, view: View, context: Context) -> Decision:
    saga = _known(command.saga_id, view, context)
    if saga.ended:
        raise saga_refusals.SagaHasEnded(saga_id=str(command.saga_id), state=saga.state.value)
    uncommitted = UncommittedEvent(
        event_id=context.new_event_id(),
        aggregate=Ref(Kind.SAGA, command.saga_id),
        event=_obeyed(command, saga),
        # The saga's events are one chain, and the order is a link of it. The metadata name the operator.
        caused_by=saga.last_event_id,
        correlation_id=command.saga_id,
    )
    return Decision(uncommitted=[uncommitted])


def _obeyed(command: commands.SagaOrder, saga: Saga) -> saga_events.SagaEvents:
    saga_id = str(command.saga_id)
    match command:
        case commands.PauseSaga():
            if saga.paused:
                raise saga_refusals.SagaIsPaused(saga_id=saga_id)
            return saga_events.SagaPaused(note=command.note)
        case commands.ResumeSaga():
            if not saga.paused:
                raise saga_refusals.SagaNotPaused(saga_id=saga_id)
            return saga_events.SagaResumed(note=command.note)
        case commands.CompensateSaga():
            return _called_off(command, saga)
        case _:
            assert_never(command)


def _called_off(command: commands.CompensateSaga, saga: Saga) -> saga_events.SagaCompensationStarted:
    """Before the pivot the saga can be compensated; if the pivot's outcome is unknown, its cell is asked.

    The current leg is undone with the rest: it may have been applied, or may be under way.
    """
    saga_id, spec = str(command.saga_id), saga.current
    if saga.state is SagaState.COMPENSATING:
        raise saga_refusals.SagaTurnedBack(saga_id=saga_id, failure_reason=saga.failure_reason)
    if saga.state is SagaState.COMMITTED:
        raise saga_refusals.SagaPastPivot(saga_id=saga_id, leg=saga.pivot.leg)
    if saga.deadline_ms is None:
        raise saga_refusals.SagaHasNoWayBack(saga_id=saga_id, kind=saga.kind.value)
    return saga_events.SagaCompensationStarted(
        leg=spec.leg if spec is not None else "",
        failure_reason=saga_refusals.CalledOff.reason,
        failure_message=command.note,
        failure_facts={"saga_id": saga_id},
        covers_leg=True,
    )
