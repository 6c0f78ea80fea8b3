"""A saga's progress as a state machine: rules, then a table, then a small interpreter.

A saga is a sequence of legs. One of them is the pivot: before it a failure compensates the saga, after it the saga only
goes forward.

RUNNING       legs before the pivot and the pivot itself are being taken, in order
COMMITTED     the pivot is done; the legs after it are retried until they are done
COMPENSATING  the legs taken so far are undone, the last first
COMPLETED     all legs are done
COMPENSATED   everything that had been done is undone

In the first three states it may be paused: then no leg is begun until it is resumed.

A pair of state and trigger that is not in the table is a bug and raises.
"""

from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from typing import Any, ClassVar, assert_never
from uuid import UUID

from cells.domain.record import Struct, field, fields_of, replace
from cells.domain.sagas import saga_events
from cells.domain.sagas.definition import SAGAS, Flow, LegSpec, SagaDefinition, SagaKind, declare, definition_of
from cells.domain.sagas.move import MOVE
from cells.domain.sagas.notice import NOTICE
from cells.domain.sagas.remote_bid import RELEASE, REMOTE_BID
from cells.domain.sagas.settlement import SETTLEMENT
from cells.domain.sagas.transfer import TRANSFER
from cells.domain.values import Direction

for _saga in (SETTLEMENT, REMOTE_BID, RELEASE, TRANSFER, NOTICE, MOVE):
    declare(_saga)


class SagaState(StrEnum):
    RUNNING = "RUNNING"
    COMMITTED = "COMMITTED"
    COMPENSATING = "COMPENSATING"
    COMPLETED = "COMPLETED"
    COMPENSATED = "COMPENSATED"


class Trigger(StrEnum):
    LEG_DONE = "leg done"
    PIVOT_DONE = "pivot done"
    PIVOT_FOUND_DONE = "pivot found done"
    FAILED = "refused, deadline passed or called off"
    LEG_UNDONE = "leg undone or tombstoned"
    ALL_DONE = "all legs done"
    ALL_UNDONE = "all legs undone"
    HELD = "paused or resumed"
    PARTY_MOVED = "party moved"


TRANSITIONS: dict[tuple[SagaState, Trigger], SagaState] = {
    (SagaState.RUNNING, Trigger.LEG_DONE): SagaState.RUNNING,
    (SagaState.RUNNING, Trigger.PIVOT_DONE): SagaState.COMMITTED,
    (SagaState.RUNNING, Trigger.FAILED): SagaState.COMPENSATING,
    (SagaState.RUNNING, Trigger.HELD): SagaState.RUNNING,
    (SagaState.RUNNING, Trigger.PARTY_MOVED): SagaState.RUNNING,
    (SagaState.COMMITTED, Trigger.LEG_DONE): SagaState.COMMITTED,
    (SagaState.COMMITTED, Trigger.ALL_DONE): SagaState.COMPLETED,
    (SagaState.COMMITTED, Trigger.HELD): SagaState.COMMITTED,
    (SagaState.COMMITTED, Trigger.PARTY_MOVED): SagaState.COMMITTED,
    (SagaState.COMPENSATING, Trigger.LEG_UNDONE): SagaState.COMPENSATING,
    (SagaState.COMPENSATING, Trigger.PIVOT_FOUND_DONE): SagaState.COMMITTED,
    (SagaState.COMPENSATING, Trigger.ALL_UNDONE): SagaState.COMPENSATED,
    (SagaState.COMPENSATING, Trigger.HELD): SagaState.COMPENSATING,
    (SagaState.COMPENSATING, Trigger.PARTY_MOVED): SagaState.COMPENSATING,
}


def diagram() -> str:
    """The table as a Mermaid state diagram; docs/concepts.md shows it."""
    arrows = [f"    {state} --> {target}: {trigger}" for (state, trigger), target in TRANSITIONS.items()]
    ends = [f"    {state} --> [*]" for state in SagaState if state in TERMINAL]
    return "\n".join(["stateDiagram-v2", f"    [*] --> {SagaState.RUNNING}", *arrows, *ends])


TERMINAL = frozenset({SagaState.COMPLETED, SagaState.COMPENSATED})


class LegState(StrEnum):
    PENDING = "PENDING"
    DONE = "DONE"
    SKIPPED = "SKIPPED"
    COMPENSATED = "COMPENSATED"
    TOMBSTONED = "TOMBSTONED"


@cache
def _cell_fields(facts: type[saga_events.SagaFacts]) -> tuple[str, ...]:
    return tuple(name for name in fields_of(facts) if name.endswith("_cell"))


class LegProgress(Struct, frozen=True, kw_only=True):
    state: LegState = LegState.PENDING
    effect_id: UUID | None = None


class Saga(Struct, frozen=True, kw_only=True):
    ADDED: ClassVar[Mapping[str, Any]] = {"saga_version": 1}
    kind: SagaKind
    facts: saga_events.SagaFacts
    state: SagaState
    # One for each leg of the definition, in its order.
    legs: tuple[LegProgress, ...]
    # Index of the leg that is being taken, or undone while compensating; -1 once all are undone.
    cursor: int
    deadline_ms: int | None
    started_ms: int
    generation: int = 1
    failure_reason: str = ""
    failure_message: str = ""
    failure_facts: dict[str, str] = field(default_factory=dict)
    # While paused no leg is begun. The deadline does not change: a saga that is resumed after it compensates at once.
    paused: bool = False
    # The last event of this saga: the cause of the next call.
    last_event_id: UUID | None = None
    saga_version: int = 1

    @property
    def specs(self) -> tuple[LegSpec, ...]:
        return definition_of(self.kind, self.saga_version)

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL

    @property
    def current(self) -> LegSpec | None:
        """The leg at the cursor; None if there is none left in this direction."""
        return self.specs[self.cursor] if 0 <= self.cursor < len(self.specs) else None

    @property
    def definition(self) -> SagaDefinition:
        return SAGAS[type(self.facts)]

    @property
    def direction(self) -> Direction:
        """The direction in which its legs are taken now."""
        return Direction.COMPENSATION if self.state is SagaState.COMPENSATING else Direction.ACTION

    @property
    def pivot(self) -> LegSpec:
        return next(spec for spec in self.specs if spec.pivot)

    @property
    def cells(self) -> frozenset[str]:
        """The cells that take part."""
        return frozenset([str(getattr(self.facts, name)) for name in _cell_fields(type(self.facts))])

    def index_of(self, leg: str) -> int:
        """Raises KeyError if the saga's definition has no leg of that name."""
        for index, spec in enumerate(self.specs):
            if spec.leg == leg:
                return index
        message = f"version {self.saga_version} of {self.kind} has no leg {leg!r}"
        raise KeyError(message)

    def flow(self, saga_id: UUID) -> Flow:
        return Flow(self.facts, saga_id, self.generation)

    def cell_of(self, spec: LegSpec) -> str:
        return str(getattr(self.facts, spec.at))


TRIGGERS: dict[type[saga_events.SagaEvents], Trigger] = {
    saga_events.SagaLegCompleted: Trigger.LEG_DONE,
    saga_events.SagaLegSkipped: Trigger.LEG_DONE,
    saga_events.SagaCompensationStarted: Trigger.FAILED,
    saga_events.SagaLegCompensated: Trigger.LEG_UNDONE,
    saga_events.SagaPivotFoundDone: Trigger.PIVOT_FOUND_DONE,
    saga_events.SagaPaused: Trigger.HELD,
    saga_events.SagaResumed: Trigger.HELD,
    saga_events.SagaPartyMoved: Trigger.PARTY_MOVED,
    saga_events.SagaCompleted: Trigger.ALL_DONE,
    saga_events.SagaCompensated: Trigger.ALL_UNDONE,
}


def trigger_of(state: Saga, event: saga_events.SagaEvents) -> Trigger:
    if isinstance(event, saga_events.SagaStarted):
        message = "SAGA_STARTED in a saga that has started"
        raise TypeError(message)
    trigger = TRIGGERS[type(event)]
    if (
        isinstance(event, saga_events.SagaLegCompleted | saga_events.SagaLegSkipped)
        and state.specs[state.index_of(event.leg)].pivot
    ):
        return Trigger.PIVOT_DONE
    return trigger


def evolve_saga(state: Saga | None, event: saga_events.SagaEvents, event_id: UUID) -> Saga:
    """The saga after `event`.

    Raises:
        TypeError: a second start, or progress before the start.
            KeyError: the pair is not in the transition table, or the leg is not the one that is due.
    """
    if state is None:
        if not isinstance(event, saga_events.SagaStarted):
            message = f"{event.event_type} of a saga that was never started"
            raise TypeError(message)
        return _started(event, event_id)
    target = TRANSITIONS[state.state, trigger_of(state, event)]
    state = replace(state, state=target, last_event_id=event_id)
    match event:
        case saga_events.SagaLegCompleted() | saga_events.SagaPivotFoundDone():
            if isinstance(event, saga_events.SagaLegCompleted) and event.valid_until_ms is not None:
                state = replace(state, deadline_ms=event.valid_until_ms)
            return _noted(state, event.leg, LegProgress(state=LegState.DONE, effect_id=event.effect_id), by=1)
        case saga_events.SagaLegSkipped():
            return _noted(state, event.leg, LegProgress(state=LegState.SKIPPED), by=1)
        case saga_events.SagaCompensationStarted():
            return replace(
                state,
                cursor=state.index_of(event.leg) - (0 if event.covers_leg else 1),
                failure_reason=event.failure_reason,
                failure_message=event.failure_message,
                failure_facts=event.failure_facts,
            )
        case saga_events.SagaLegCompensated():
            undone = LegState.COMPENSATED if event.result == "UNDONE" else LegState.TOMBSTONED
            return _noted(state, event.leg, LegProgress(state=undone, effect_id=event.effect_id), by=-1)
        case saga_events.SagaPaused() | saga_events.SagaResumed():
            return replace(state, paused=isinstance(event, saga_events.SagaPaused))
        case saga_events.SagaPartyMoved():
            return replace(state, facts=moved_facts(state.facts, event))
        case saga_events.SagaCompleted() | saga_events.SagaCompensated():
            if state.current is not None:
                message = f"{event.event_type} of a saga that has {state.current.leg!r} left"
                raise KeyError(message)
            return state
        case saga_events.SagaStarted():
            return state
        case _:
            assert_never(event)


def moved_facts(facts: saga_events.SagaFacts, event: saga_events.SagaPartyMoved) -> saga_events.SagaFacts:
    """With the person's new home, in whatever role they have. Facts name a person beside the person's cell."""
    roles = (name.removesuffix("_cell") for name in fields_of(type(facts)) if name.endswith("_cell"))
    cells: dict[str, Any] = {f"{role}_cell": event.cell for role in roles if user_in(facts, role) == event.user_id}
    return replace(facts, **cells)


def user_in(facts: saga_events.SagaFacts, role: str) -> UUID | None:
    """The user in a role: {role}_id or {role}_user_id."""
    if role == "auction":
        return None
    return getattr(facts, f"{role}_id", None) or getattr(facts, f"{role}_user_id", None)


def party_of(saga: Saga, leg: str) -> UUID | None:
    """The person at whose home the leg is taken; None: at nobody's home, or the saga has no such leg."""
    at = next((spec.at for spec in saga.specs if spec.leg == leg), "")
    return user_in(saga.facts, at.removesuffix("_cell")) if at.endswith("_cell") else None


def _started(event: saga_events.SagaStarted, event_id: UUID) -> Saga:
    kind = SAGAS[type(event.facts)].kind
    return Saga(
        kind=kind,
        facts=event.facts,
        state=SagaState.RUNNING,
        legs=(LegProgress(),) * len(definition_of(kind, event.saga_version)),
        cursor=0,
        deadline_ms=event.deadline_ms,
        started_ms=event.started_ms,
        last_event_id=event_id,
        saga_version=event.saga_version,
    )


def _noted(state: Saga, leg: str, progress: LegProgress, *, by: int) -> Saga:
    """Records a leg's progress, and steps to the next one by `by`. Raises KeyError if that leg is not the one due."""
    index = state.index_of(leg)
    if index != state.cursor:
        message = f"{leg!r} of a saga that is at {state.current.leg if state.current else 'its end'!r}"
        raise KeyError(message)
    return replace(state, legs=(*state.legs[:index], progress, *state.legs[index + 1 :]), cursor=index + by)
