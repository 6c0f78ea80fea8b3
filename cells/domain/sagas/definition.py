"""The form of a saga's declaration: its legs, the cells that take them, their effects, and its ends.

Each saga is declared in a file of its own beside this one: settlement, remote_bid, transfer, notice, move. The state
machine, the rules of the legs, the state that they need, and docs/sagas.md follow from the declarations.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from cells.domain.account.barrier import LegCommand
from cells.domain.commands import ApplyLeg, LegAction
from cells.domain.decision import Context, UncommittedEvent, View
from cells.domain.events import AnyEvent
from cells.domain.record import Struct, field, fields_of
from cells.domain.refusals import BidExpired, Refused
from cells.domain.results import Result
from cells.domain.sagas.leg import LegResult
from cells.domain.sagas.saga_events import SagaFacts
from cells.domain.values import Direction, Kind, LegId, Ref, derived_id

if TYPE_CHECKING:
    from cells.domain.needs import Loaded


class SagaKind(StrEnum):
    SETTLEMENT = "SETTLEMENT"
    REMOTE_BID = "REMOTE_BID"
    RELEASE = "RELEASE"
    TRANSFER = "TRANSFER"
    NOTICE = "NOTICE"
    MOVE = "MOVE"


class LegContext(NamedTuple):
    """The leg that is taken or undone, and the state and time at which that is decided."""

    leg_id: LegId
    view: View
    context: Context


class Effect(Struct, frozen=True, kw_only=True):
    """The effect of one kind of action in the cell that takes it, and how it is undone."""

    action: type[LegAction]
    apply: Callable[[Any, LegContext], AnyEvent]
    # None: the effect stays, and a compensation only determines whether it has happened or never will.
    undo: Callable[[Any, LegContext], AnyEvent] | None = None
    # The stream of its events: the kind, and the action's field that names it.
    stream: tuple[Kind, str] = (Kind.ACCOUNT, "user_id")
    # Further state that it reads, if the stream's own state points to it.
    needs: "Callable[[Any, Loaded, str], Iterator[Ref]] | None" = None
    # Further events in its commit, and in that of its compensation, caused by its own event.
    further: Callable[[Any, LegContext, UUID], Iterable[UncommittedEvent]] | None = None
    further_undone: Callable[[Any, LegContext, UUID], Iterable[UncommittedEvent]] | None = None
    # Whether a compensation has something to undo even if the action was never taken.
    undoes_untaken: Callable[[Any, View], bool] | None = None
    # Whether other cells may request it, the field in which they may name only themselves, and further checks.
    foreign: bool = False
    claims: str = ""
    askable: Callable[[LegCommand, View, Context], None] | None = None
    # The leg of the same saga whose barrier the further checks read.
    counterpart: Callable[[LegCommand], ApplyLeg] | None = None

    def ref(self, action: LegAction) -> Ref:
        kind, name = self.stream
        return Ref(kind, getattr(action, name))


class Flow(NamedTuple):
    """A saga as its legs see it."""

    facts: Any
    saga_id: UUID
    generation: int

    def clearing_id(self, name: str) -> UUID:
        """Identifies money in transit: both sides of a movement between cells record the same id."""
        return derived_id(self.saga_id, f"clearing/{name}/{self.generation}")


class LegSpec(Struct, frozen=True, kw_only=True):
    """One leg of a saga's definition."""

    leg: str
    # The fact that names the cell where the leg is taken.
    at: str
    effect: Effect
    # Fields of the action whose fact has another name; all others are the facts of the same name.
    given: Mapping[str, str] = field(default_factory=dict)
    # Fields of the action that do not depend on the saga.
    fixed: Mapping[str, str] = field(default_factory=dict)
    # The name of its movement between cells.
    clearing: str = ""
    pivot: bool = False
    # A best-effort leg may be skipped; any other after the pivot is retried until done.
    best_effort: bool = False
    # After this refusal the leg has nothing to do, and is skipped.
    moot: type[Refused] | None = None

    def may_answer(self, direction: Direction, result: LegResult) -> bool:
        """Whether the leg's cell may answer so: of legs that are to be undone, only the pivot may be found done."""
        if direction is Direction.COMPENSATION and self.pivot:
            return True
        return (result is LegResult.APPLIED) == (direction is Direction.ACTION)

    def action(self, flow: Flow) -> LegAction:
        kind = self.effect.action
        content: dict[str, Any] = dict(self.fixed)
        if self.clearing:
            content["clearing_id"] = flow.clearing_id(self.clearing)
        for name in fields_of(kind):
            source = self.given.get(name, name)
            if name not in content and hasattr(flow.facts, source):
                content[name] = getattr(flow.facts, source)
        return kind(**content)


class SagaDefinition(Struct, frozen=True, kw_only=True):
    """All that distinguishes one kind of saga from the others."""

    kind: SagaKind
    # For the docs.
    title: str
    facts: type[SagaFacts]
    # A saga follows the version that it was started with until it ends, and its log is always replayed by it: a shipped
    # version never changes. To add a leg, add a version.
    versions: Mapping[int, tuple[LegSpec, ...]]
    # The fact that names the person for whom legs are taken that are taken at nobody's home.
    party: str
    # The state that its end reads or changes: kinds, and the facts that name it.
    needs: tuple[tuple[Kind, str], ...] = ()
    # The answer to the command that began it; None: no command waits.
    answer: Callable[[Flow, View], Result] | None = None
    # The refusal of that command if the deadline has passed.
    expired: type[Refused] = BidExpired
    # Events with its end, caused by it.
    completed: Callable[[Flow, Context, UUID], Iterable[UncommittedEvent]] | None = None
    compensated: Callable[[Flow, str, Context, UUID], Iterable[UncommittedEvent]] | None = None
    # Leg and direction -> the events that send money in transit to the new home of the leg's user.
    redirects: Mapping[tuple[str, Direction], Callable[[Flow, str], tuple[Ref, tuple[AnyEvent, ...]]]] = field(
        default_factory=dict
    )


# By kind and version, by the type of the facts, and by the type of an action: cells/domain/sagas/saga.py imports all.
DEFINITIONS: dict[tuple[SagaKind, int], tuple[LegSpec, ...]] = {}
SAGAS: dict[type[SagaFacts], SagaDefinition] = {}
EFFECTS: dict[type[LegAction], Effect] = {}


def declare(saga: SagaDefinition) -> SagaDefinition:
    SAGAS[saga.facts] = saga
    for version, legs in saga.versions.items():
        DEFINITIONS[saga.kind, version] = legs
        EFFECTS.update({spec.effect.action: spec.effect for spec in legs})
    return saga


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


def leg_names(effect: Effect) -> frozenset[str]:
    """The names of the legs that have the effect."""
    return frozenset(spec.leg for legs in DEFINITIONS.values() for spec in legs if spec.effect is effect)
