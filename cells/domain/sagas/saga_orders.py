"""An operator's orders to a saga: pause, resume, compensate. Each is an event in the saga's own stream."""

from typing import assert_never

from cells.domain.commands import CompensateSaga, PauseSaga, ResumeSaga, SagaOrder
from cells.domain.decision import Context, Decision, UncommittedEvent, View
from cells.domain.events import SagaCompensationStarted, SagaEvents, SagaPaused, SagaResumed
from cells.domain.refusals import SagaNotFound
from cells.domain.sagas.saga import Saga, SagaState
from cells.domain.sagas.saga_refusals import (
    CalledOff,
    SagaHasEnded,
    SagaHasNoWayBack,
    SagaIsPaused,
    SagaNotPaused,
    SagaPastPivot,
    SagaTurnedBack,
)
from cells.domain.values import Kind, Ref


def order_saga(command: SagaOrder, view: View, context: Context) -> Decision:
    saga = view.saga(command.saga_id)
    if saga is None:
        raise SagaNotFound(saga_id=str(command.saga_id), cell=context.cell)
    if saga.ended:
        raise SagaHasEnded(saga_id=str(command.saga_id), state=saga.state.value)
    event_draft = UncommittedEvent(
        event_id=context.new_event_id(),
        aggregate=Ref(Kind.SAGA, command.saga_id),
        event=_obeyed(command, saga),
        # The saga's events are one chain, and the order is a link of it. The metadata name the operator.
        caused_by=saga.last_event_id,
        correlation_id=command.saga_id,
    )
    return Decision(uncommitted=[event_draft])


def _obeyed(command: SagaOrder, saga: Saga) -> SagaEvents:
    saga_id = str(command.saga_id)
    match command:
        case PauseSaga():
            if saga.paused:
                raise SagaIsPaused(saga_id=saga_id)
            return SagaPaused(note=command.note)
        case ResumeSaga():
            if not saga.paused:
                raise SagaNotPaused(saga_id=saga_id)
            return SagaResumed(note=command.note)
        case CompensateSaga():
            _require_way_back(saga, saga_id)
            return _called_off(command, saga)
        case _:
            assert_never(command)


def _require_way_back(saga: Saga, saga_id: str) -> None:
    """Before the pivot the saga can be compensated; if the pivot's outcome is unknown, its cell is asked."""
    if saga.state is SagaState.COMPENSATING:
        raise SagaTurnedBack(saga_id=saga_id, failure_reason=saga.failure_reason)
    if saga.state is SagaState.COMMITTED:
        raise SagaPastPivot(saga_id=saga_id, leg=saga.pivot.leg)
    if saga.deadline_ms is None:
        raise SagaHasNoWayBack(saga_id=saga_id, kind=saga.kind.value)


def _called_off(command: CompensateSaga, saga: Saga) -> SagaCompensationStarted:
    """The current leg is undone with the rest: it may have been applied, or may be under way."""
    spec = saga.current
    return SagaCompensationStarted(
        leg=spec.leg if spec is not None else "",
        failure_reason=CalledOff.reason,
        failure_message=command.note,
        failure_facts={"saga_id": str(command.saga_id)},
        covers_leg=True,
    )
