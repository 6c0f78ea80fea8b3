"""The sagas that a cell has in flight, as its leader sees them."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from cells.domain.evolve import evolve
from cells.domain.sagas.saga import Saga, SagaState
from cells.domain.sagas.saga_events import SagaPaused, SagaResumed, SagaStarted, begun_by
from cells.domain.sagas.saga_rules import leg_id_of
from cells.domain.values import Kind, LegId
from cells.store.ports import Clock, Store
from cells.writer.batch import Commit, Committed

if TYPE_CHECKING:
    from cells.moves.history_exporter import CopyProgress

PAGE = 1_000
# A saga is stuck after this many failed attempts of one leg, or this long at it: silent cells are not called.
STUCK_AFTER_ATTEMPTS = 10
STUCK_AFTER_S = 600.0
UNFINISHED = tuple(state.value for state in SagaState if state not in {SagaState.COMPLETED, SagaState.COMPENSATED})


@dataclass(slots=True, kw_only=True)
class SagaExecution:
    """A saga as this process drives it."""

    saga_id: UUID
    saga: Saga
    # The stream version that `saga` includes.
    version: int = 0
    # The user or cell that counts it among its open flows.
    begun_by: UUID | str | None = None
    # Failed attempts of the current leg.
    attempts: int = 0
    # Those of them that the leg's cell answered, even with a failure.
    answers: int = 0
    last_error: str = ""
    # An attempt is running or its result is being recorded: do not cancel it or start a second one.
    under_way: bool = False
    # The silent cell that it waits for; empty if it does not wait.
    waits_for: str = ""
    # The wall-clock time of the next attempt; 0 if that is now, or does not depend on a clock.
    next_attempt_ms: int = 0
    # When the current leg became due, on the monotonic clock; None if this process has not reached it yet.
    since_s: float | None = None
    # Copy progress of a moving user's history.
    copied: "CopyProgress | None" = None
    _seen: UUID | None = None

    @property
    def leg_id(self) -> LegId:
        return leg_id_of(self.saga, self.saga_id)

    @property
    def cell(self) -> str:
        """The cell of the current leg; empty if there is none."""
        return self.saga.cell_of(self.saga.current) if self.saga.current is not None else ""

    def now_is(self, saga: Saga, version: int) -> None:
        """Updates the saga's state. The count of failed attempts restarts with each leg and direction."""
        if (saga.state, saga.cursor) != (self.saga.state, self.saga.cursor):
            self.attempts = self.answers = 0
        self.saga, self.version = saga, version

    def sample(self, now_s: float) -> None:
        """Records when the leg became due. Any change of the saga restarts the measurement."""
        if self.since_s is None or self._seen != self.saga.last_event_id:
            self.since_s, self._seen = now_s, self.saga.last_event_id

    def is_stuck(self, now_s: float) -> bool:
        """Whether the saga can neither proceed nor turn back: a compensation or a required leg keeps failing."""
        saga, spec = self.saga, self.saga.current
        if saga.paused or spec is None or self.since_s is None:
            return False
        only_way = saga.state is not SagaState.RUNNING or saga.deadline_ms is None
        late = self.attempts >= STUCK_AFTER_ATTEMPTS or now_s - self.since_s >= STUCK_AFTER_S
        return only_way and not spec.best_effort and late


class SagaCounts(NamedTuple):
    """Of the sagas in flight."""

    by_state: Counter[SagaState]
    # Those that can neither proceed nor compensate, and those of them that are compensating.
    stuck: int
    stuck_compensating: int
    paused: int
    # 0: there is none.
    oldest_age_ms: int
    # By the silent cell that they wait for.
    waiting: Counter[str]


@dataclass(slots=True, kw_only=True)
class SagaExecutions:
    """Executions by saga, from the start of the saga or of this process until the saga ends.

    Commits continue during loading, so a loaded saga may or may not include a concurrent event.
    """

    # The number that ended while this process drove them, by kind and final state.
    ended: Counter[tuple[str, str]] = field(default_factory=Counter)
    # The number in flight, by the user or cell whose number is limited.
    begun: Counter[UUID | str] = field(default_factory=Counter)
    _by_id: dict[UUID, SagaExecution] = field(default_factory=dict)
    # Commits received during loading; None at any other time.
    _early: list[Committed] | None = None

    @property
    def all(self) -> Mapping[UUID, SagaExecution]:
        return self._by_id

    def get(self, saga_id: UUID) -> SagaExecution | None:
        return self._by_id.get(saga_id)

    def counts(self, clock: Clock) -> SagaCounts:
        runs, now_s, now_ms = list(self._by_id.values()), clock.monotonic_s(), clock.wall_ms()
        stuck = Counter(run.saga.state is SagaState.COMPENSATING for run in runs if run.is_stuck(now_s))
        return SagaCounts(
            by_state=Counter(run.saga.state for run in runs),
            stuck=stuck.total(),
            stuck_compensating=stuck[True],
            paused=sum(run.saga.paused for run in runs),
            oldest_age_ms=max(0, *(now_ms - run.saga.started_ms for run in runs)) if runs else 0,
            waiting=Counter(run.waits_for for run in runs if run.waits_for),
        )

    def follow(self, commit: Commit) -> list[UUID]:
        """Applies a commit to the sagas; returns those that begin, are paused or are resumed."""
        events = [event for event in commit.events if event.aggregate.kind is Kind.SAGA]
        if self._early is not None:
            self._early += events
        return [event.aggregate.id for event in events if self._take(event)]

    def _take(self, event: Committed) -> bool:
        saga_id = event.aggregate.id
        run = self._by_id.get(saga_id)
        if run is None and not isinstance(event.event, SagaStarted):
            return False
        if run is not None and event.row.stream_version <= run.version:
            return False
        saga = evolve(run.saga if run else None, event.event, event.row.event_id)
        if not isinstance(saga, Saga):
            return False
        if run is None:
            self._add(SagaExecution(saga_id=saga_id, saga=saga, version=event.row.stream_version))
            return True
        run.now_is(saga, event.row.stream_version)
        if saga.ended:
            self._remove(saga_id)
            self.ended[saga.kind.value, saga.state.value] += 1
            return False
        return isinstance(event.event, SagaPaused | SagaResumed)

    async def load(self, store: Store) -> AsyncIterator[UUID]:
        """Loads the sagas that have not ended; yields those that were not yet known."""
        after: UUID | None = None
        self._early = []
        while True:
            page = await store.list_states(Kind.SAGA, states=UNFINISHED, after=after, limit=PAGE)
            for saga_id, entry in page:
                if isinstance(entry.state, Saga) and saga_id not in self._by_id:
                    self._add(SagaExecution(saga_id=saga_id, saga=entry.state, version=entry.stream_version))
                    for event in self._early:
                        if event.aggregate.id == saga_id and event.row.stream_version > entry.stream_version:
                            self._take(event)
                    if saga_id in self._by_id:
                        yield saga_id
            if len(page) < PAGE:
                self._early = None
                return
            after = page[-1][0]

    def _add(self, run: SagaExecution) -> None:
        self._by_id[run.saga_id] = run
        # Kept, because the facts change when a person moves.
        run.begun_by = begun_by(run.saga.facts)
        if run.begun_by is not None:
            self.begun[run.begun_by] += 1

    def _remove(self, saga_id: UUID) -> None:
        counted = self._by_id.pop(saga_id).begun_by
        if counted is None:
            return
        self.begun[counted] -= 1
        if not self.begun[counted]:
            del self.begun[counted]

    def clear(self) -> None:
        self._by_id.clear()
        self.begun.clear()
        self._early = None
