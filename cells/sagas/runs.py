"""The sagas that a cell has in flight, as the process that leads it sees them."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from uuid import UUID

from cells.domain.events import SagaStarted
from cells.domain.evolve import evolve
from cells.domain.saga import Saga, SagaState
from cells.domain.values import Kind
from cells.group import Commit
from cells.ports import Store

PAGE = 1_000
UNFINISHED = tuple(state.value for state in SagaState if state not in {SagaState.COMPLETED, SagaState.COMPENSATED})


@dataclass(slots=True, kw_only=True)
class Run:
    """A saga as this process drives it."""

    saga: Saga
    attempts: int = 0
    # Of these, those that the leg's cell has answered, if only with a failure.
    answers: int = 0
    last_error: str = ""


@dataclass(slots=True, kw_only=True)
class Runs:
    """By saga, from its start, or from this process's, to its end."""

    _by_id: dict[UUID, Run] = field(default_factory=dict)

    def get(self, saga_id: UUID) -> Run | None:
        return self._by_id.get(saga_id)

    def follow(self, commit: Commit) -> list[UUID]:
        """Takes in what has become of the sagas; returns those that begin."""
        begun = []
        for event in commit.events:
            if event.aggregate.kind is not Kind.SAGA:
                continue
            saga_id = event.aggregate.id
            run = self._by_id.get(saga_id)
            saga = evolve(run.saga if run else None, event.event, event.row.event_id)
            if not isinstance(saga, Saga):
                continue
            if run is not None:
                run.saga = saga
                if saga.ended:
                    del self._by_id[saga_id]
            elif isinstance(event.event, SagaStarted):
                self._by_id[saga_id] = Run(saga=saga)
                begun.append(saga_id)
        return begun

    async def load(self, store: Store) -> AsyncIterator[UUID]:
        """Takes up what has not ended; yields those that were not here yet."""
        after: UUID | None = None
        while True:
            page = await store.list_states(Kind.SAGA, states=UNFINISHED, after=after, limit=PAGE)
            for saga_id, entry in page:
                if isinstance(entry.state, Saga) and saga_id not in self._by_id:
                    self._by_id[saga_id] = Run(saga=entry.state)
                    yield saga_id
            if len(page) < PAGE:
                return
            after = page[-1][0]

    def clear(self) -> None:
        self._by_id.clear()

    def attempts(self, saga_id: UUID) -> tuple[int, str]:
        run = self._by_id.get(saga_id)
        return (run.attempts, run.last_error) if run else (0, "")
