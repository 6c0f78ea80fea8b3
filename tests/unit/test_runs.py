"""Sagas are loaded while commits continue: each is known in its current state."""

from collections.abc import Sequence
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from cells.domain.events import AnyEvent
from cells.domain.evolve import evolve
from cells.domain.sagas.saga import Saga, SagaState
from cells.domain.sagas.saga_events import SagaCompleted, SagaLegCompleted, SagaPaused, SagaStarted
from cells.domain.values import Kind, Ref
from cells.sagas.executions import SagaExecutions
from cells.store.ports import Store, Versioned
from cells.writer.batch import Commit, Committed
from tests.integration.rows import event_row, saga

SAGA_ID = uuid4()
SAMPLE = saga(SagaState.RUNNING)
STARTED = SagaStarted(facts=SAMPLE.facts, deadline_ms=None, started_ms=5)
PAUSED = SagaPaused(note="")
DONE = SagaLegCompleted(leg="release", generation=1, effect_id=uuid4())
STORY: tuple[AnyEvent, ...] = (STARTED, PAUSED)
ENDING: tuple[AnyEvent, ...] = (STARTED, DONE, SagaCompleted())


def commit_of(story: Sequence[AnyEvent], version: int) -> Commit:
    event = story[version - 1]
    row = event_row(version, event, aggregate_id=SAGA_ID, stream_version=version)
    return Commit([Committed(row, Ref(Kind.SAGA, SAGA_ID), event)], [])


def state_of(story: Sequence[AnyEvent], version: int) -> Versioned:
    state: Any = None
    for event in story[:version]:
        state = evolve(state, event, uuid4())
    assert isinstance(state, Saga)
    return Versioned(state, version)


class Racing:
    """A store whose page is read at one moment, and returned at a later one."""

    def __init__(self, runs: SagaExecutions, story: Sequence[AnyEvent], known: int, meanwhile: int) -> None:
        self.runs, self.story, self.known, self.meanwhile = runs, story, known, meanwhile

    async def list_states(self, *_: object, **__: object) -> list[tuple[UUID, Versioned]]:
        for version in range(1, self.meanwhile + 1):
            self.runs.follow(commit_of(self.story, version))
        return [(SAGA_ID, state_of(self.story, self.known))] if self.known else []


# A sequence of events, how many the page has, and how many arrive while it is read. An ended saga is not loaded.
RACES = [
    (story, known, meanwhile)
    for story, loaded in ((STORY, len(STORY)), (ENDING, len(ENDING) - 1))
    for known in range(loaded + 1)
    for meanwhile in range(len(story) + 1)
]


@pytest.mark.parametrize(("story", "known", "meanwhile"), RACES)
async def test_nothing_is_missed_and_nothing_comes_twice(
    story: tuple[AnyEvent, ...], known: int, meanwhile: int
) -> None:
    """Whether the page is older or newer than the received events; the remaining ones arrive afterwards."""
    runs = SagaExecutions()
    [_ async for _ in runs.load(cast("Store", Racing(runs, story, known, meanwhile)))]
    for version in range(meanwhile + 1, len(story) + 1):
        runs.follow(commit_of(story, version))
    run = runs.get(SAGA_ID)
    if story is ENDING:
        assert run is None
    else:
        assert run is not None
        assert run.saga.paused
        assert run.version == len(story)
