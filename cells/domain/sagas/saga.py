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
from typing import Any, ClassVar, assert_never
from uuid import UUID

from cells.domain.events import (
    MoveFacts,
    NoticeFacts,
    ReleaseFacts,
    RemoteBidFacts,
    SagaCompensated,
    SagaCompensationStarted,
    SagaCompleted,
    SagaEvents,
    SagaFacts,
    SagaLegCompensated,
    SagaLegCompleted,
    SagaLegSkipped,
    SagaPartyMoved,
    SagaPaused,
    SagaPivotFoundDone,
    SagaResumed,
    SagaStarted,
    SettlementFacts,
    TransferFacts,
)
from cells.domain.record import Struct, field, fields_of, replace


class SagaKind(StrEnum):
    SETTLEMENT = "SETTLEMENT"
    REMOTE_BID = "REMOTE_BID"
    RELEASE = "RELEASE"
    TRANSFER = "TRANSFER"
    NOTICE = "NOTICE"
    MOVE = "MOVE"


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


class LegSpec(Struct, frozen=True, kw_only=True):
    """One leg of a saga's definition."""

    leg: str
    # The fact that names the cell where the leg is taken.
    at: str
    pivot: bool = False
    # A best-effort leg may be skipped; any other after the pivot is retried until done.
    best_effort: bool = False


SETTLEMENT_LEGS = (
    LegSpec(leg="pin", at="winner_cell"),
    LegSpec(leg="escrow-out", at="winner_cell"),
    LegSpec(leg="escrow-in", at="auction_cell"),
    LegSpec(leg="credit-out", at="auction_cell"),
    LegSpec(leg="credit-in", at="seller_cell"),
    LegSpec(leg="ownership", at="auction_cell", pivot=True),
    LegSpec(leg="settle", at="seller_cell"),
    LegSpec(leg="notify-winner", at="winner_cell", best_effort=True),
    LegSpec(leg="notify-seller", at="seller_cell", best_effort=True),
)
REMOTE_BID_LEGS = (
    LegSpec(leg="reserve", at="bidder_cell"),
    LegSpec(leg="submit", at="auction_cell", pivot=True),
)
RELEASE_LEGS = (LegSpec(leg="release", at="bidder_cell", pivot=True),)
TRANSFER_LEGS = (
    LegSpec(leg="send", at="from_cell"),
    LegSpec(leg="receive", at="to_cell", pivot=True),
)
# Moves before version 2: everything was copied after the announcement.
MOVE_LEGS_1 = (
    LegSpec(leg="announce", at="from_cell"),
    LegSpec(leg="depart", at="from_cell"),
    LegSpec(leg="arrive", at="to_cell", pivot=True),
    LegSpec(leg="leave", at="from_cell"),
    LegSpec(leg="tell", at="directory"),
)
MOVE_LEGS = (
    LegSpec(leg="announce", at="from_cell"),
    # The history is copied before it.
    LegSpec(leg="close", at="from_cell"),
    LegSpec(leg="depart", at="from_cell"),
    LegSpec(leg="arrive", at="to_cell", pivot=True),
    LegSpec(leg="leave", at="from_cell"),
    LegSpec(leg="tell", at="directory"),
)
NOTICE_LEGS = (LegSpec(leg="notify", at="user_cell", pivot=True, best_effort=True),)


def kind_of(facts: SagaFacts) -> SagaKind:
    match facts:
        case SettlementFacts():
            return SagaKind.SETTLEMENT
        case RemoteBidFacts():
            return SagaKind.REMOTE_BID
        case ReleaseFacts():
            return SagaKind.RELEASE
        case TransferFacts():
            return SagaKind.TRANSFER
        case NoticeFacts():
            return SagaKind.NOTICE
        case MoveFacts():
            return SagaKind.MOVE
        case _:
            assert_never(facts)


# By kind and version. A saga follows the version that it was started with until it ends, and its log is always replayed
# by it: a shipped definition never changes. To add a leg, add a version.
DEFINITIONS: dict[tuple[SagaKind, int], tuple[LegSpec, ...]] = {
    (SagaKind.SETTLEMENT, 1): SETTLEMENT_LEGS,
    (SagaKind.REMOTE_BID, 1): REMOTE_BID_LEGS,
    (SagaKind.RELEASE, 1): RELEASE_LEGS,
    (SagaKind.TRANSFER, 1): TRANSFER_LEGS,
    (SagaKind.NOTICE, 1): NOTICE_LEGS,
    (SagaKind.MOVE, 1): MOVE_LEGS_1,
    (SagaKind.MOVE, 2): MOVE_LEGS,
}


def definition_of(kind: SagaKind, version: int) -> tuple[LegSpec, ...]:
    """Raises KeyError if this program does not know the version."""
    legs = DEFINITIONS.get((kind, version))
    if legs is None:
        message = f"version {version} of {kind} is not known here: a newer program has started it, roll forward"
        raise KeyError(message)
    return legs


def version_of(kind: SagaKind) -> int:
    """The version for new sagas of this kind."""
    return max(version for known, version in DEFINITIONS if known is kind)


class LegProgress(Struct, frozen=True, kw_only=True):
    state: LegState = LegState.PENDING
    effect_id: UUID | None = None


class Saga(Struct, frozen=True, kw_only=True):
    ADDED: ClassVar[Mapping[str, Any]] = {"saga_version": 1}
    kind: SagaKind
    facts: SagaFacts
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
    def pivot(self) -> LegSpec:
        return next(spec for spec in self.specs if spec.pivot)

    @property
    def cells(self) -> frozenset[str]:
        """The cells that take part."""
        return frozenset(
            str(getattr(self.facts, name)) for name in fields_of(type(self.facts)) if name.endswith("_cell")
        )

    def index_of(self, leg: str) -> int:
        """Raises KeyError if the saga's definition has no leg of that name."""
        for index, spec in enumerate(self.specs):
            if spec.leg == leg:
                return index
        message = f"version {self.saga_version} of {self.kind} has no leg {leg!r}"
        raise KeyError(message)

    def cell_of(self, spec: LegSpec) -> str:
        return str(getattr(self.facts, spec.at))


def trigger_of(state: Saga, event: SagaEvents) -> Trigger:
    match event:
        case SagaStarted():
            message = "SAGA_STARTED in a saga that has started"
            raise TypeError(message)
        case SagaLegCompleted() | SagaLegSkipped():
            pivot = state.specs[state.index_of(event.leg)].pivot
            return Trigger.PIVOT_DONE if pivot else Trigger.LEG_DONE
        case SagaCompensationStarted():
            return Trigger.FAILED
        case SagaLegCompensated():
            return Trigger.LEG_UNDONE
        case SagaPivotFoundDone():
            return Trigger.PIVOT_FOUND_DONE
        case SagaPaused() | SagaResumed():
            return Trigger.HELD
        case SagaPartyMoved():
            return Trigger.PARTY_MOVED
        case SagaCompleted():
            return Trigger.ALL_DONE
        case SagaCompensated():
            return Trigger.ALL_UNDONE
        case _:
            assert_never(event)


def evolve_saga(state: Saga | None, event: SagaEvents, event_id: UUID) -> Saga:
    """The saga after `event`.

    Raises:
        TypeError: a second start, or progress before the start.
            KeyError: the pair is not in the transition table, or the leg is not the one that is due.
    """
    if state is None:
        if not isinstance(event, SagaStarted):
            message = f"{event.event_type} of a saga that was never started"
            raise TypeError(message)
        return _started(event, event_id)
    target = TRANSITIONS[state.state, trigger_of(state, event)]
    state = replace(state, state=target, last_event_id=event_id)
    match event:
        case SagaLegCompleted() if event.valid_until_ms is not None:
            state = replace(state, deadline_ms=event.valid_until_ms)
            return _noted(state, event.leg, LegProgress(state=LegState.DONE, effect_id=event.effect_id), by=1)
        case SagaLegCompleted() | SagaPivotFoundDone():
            return _noted(state, event.leg, LegProgress(state=LegState.DONE, effect_id=event.effect_id), by=1)
        case SagaLegSkipped():
            return _noted(state, event.leg, LegProgress(state=LegState.SKIPPED), by=1)
        case SagaCompensationStarted():
            return replace(
                state,
                cursor=state.index_of(event.leg) - (0 if event.covers_leg else 1),
                failure_reason=event.failure_reason,
                failure_message=event.failure_message,
                failure_facts=event.failure_facts,
            )
        case SagaLegCompensated():
            undone = LegState.COMPENSATED if event.result == "UNDONE" else LegState.TOMBSTONED
            return _noted(state, event.leg, LegProgress(state=undone, effect_id=event.effect_id), by=-1)
        case SagaPaused():
            return replace(state, paused=True)
        case SagaResumed():
            return replace(state, paused=False)
        case SagaPartyMoved():
            return replace(state, facts=moved_facts(state.facts, event))
        case SagaCompleted() | SagaCompensated():
            if state.current is not None:
                message = f"{event.event_type} of a saga that has {state.current.leg!r} left"
                raise KeyError(message)
            return state
        case SagaStarted():
            return state
        case _:
            assert_never(event)


def moved_facts(facts: SagaFacts, event: SagaPartyMoved) -> SagaFacts:
    """With the person's new home, in whatever role they have. Facts name a person beside the person's cell."""
    roles = (name.removesuffix("_cell") for name in fields_of(type(facts)) if name.endswith("_cell"))
    cells: dict[str, Any] = {f"{role}_cell": event.cell for role in roles if user_in(facts, role) == event.user_id}
    return replace(facts, **cells)


def user_in(facts: SagaFacts, role: str) -> UUID | None:
    """The user in a role: {role}_id or {role}_user_id."""
    if role == "auction":
        return None
    return getattr(facts, f"{role}_id", None) or getattr(facts, f"{role}_user_id", None)


def party_of(saga: Saga, leg: str) -> UUID | None:
    """The person at whose home the leg is taken; None: at nobody's home, or the saga has no such leg."""
    at = next((spec.at for spec in saga.specs if spec.leg == leg), "")
    return user_in(saga.facts, at.removesuffix("_cell")) if at.endswith("_cell") else None


def _started(event: SagaStarted, event_id: UUID) -> Saga:
    kind = kind_of(event.facts)
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
