"""The native engine: one background task per saga, no other server. Its durable state is the cell's log."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

from cells.background import BackgroundTask
from cells.domain.refusals import NotLeading
from cells.domain.sagas.saga_refusals import SagasDrivenHere
from cells.sagas.engine import Step
from cells.sagas.executions import SagaExecution
from cells.sagas.steps import Steps
from cells.store.ports import Store
from cells.writer.batch import Commit


@dataclass(slots=True, kw_only=True)
class NativeEngine:
    store: Store
    steps: Steps
    _tasks: dict[UUID, BackgroundTask] = field(default_factory=dict)
    _running: bool = False

    def follow(self, commit: Commit) -> None:
        if self._running:
            for saga_id in self.steps.executions.follow(commit):
                self._heed(saga_id)

    async def start(self) -> None:
        self._running = True
        async for saga_id in self.steps.executions.load(self.store):
            self._take_up(saga_id)

    async def stop(self) -> None:
        self._running = False
        tasks = list(self._tasks.values())
        await asyncio.gather(*(task.stop() for task in tasks))
        self._tasks.clear()
        self.steps.executions.clear()

    @property
    def in_flight(self) -> Mapping[UUID, SagaExecution]:
        return self.steps.executions.all

    def retry_now(self, saga_id: UUID) -> None:
        run = self.steps.executions.get(saga_id)
        if run is None or run.under_way or run.saga.paused:
            return
        self._let_go(saga_id)
        self._take_up(saga_id)
        self.steps.ask_now(run)

    async def advance(self, saga_id: str) -> Step:  # noqa: ARG002 - the port's signature
        raise SagasDrivenHere(cell=self.steps.cell)

    def _heed(self, saga_id: UUID) -> None:
        """A paused saga has no task once its attempt under way has ended and is recorded."""
        run = self.steps.executions.get(saga_id)
        if run is None or run.under_way:
            return
        self._let_go(saga_id)
        if not run.saga.paused:
            self._take_up(saga_id)

    def _take_up(self, saga_id: UUID) -> None:
        run = self.steps.executions.get(saga_id)
        if run is not None and not run.saga.paused:
            # An unexpected error delays only this saga: its leg is retried.
            task = BackgroundTask(name="saga", work=partial(self._drive, saga_id, run), every_s=None)
            self._tasks[saga_id] = task
            task.start()

    def _let_go(self, saga_id: UUID) -> None:
        task = self._tasks.pop(saga_id, None)
        if task is not None:
            task.cancel()

    async def _drive(self, saga_id: UUID, run: SagaExecution) -> None:
        with suppress(NotLeading):
            while not (run.saga.ended or run.saga.paused):
                pause_s = await self.steps.execute_leg(saga_id, run)
                if pause_s:
                    await asyncio.sleep(pause_s)
        # A stopped task may have a successor.
        if (task := self._tasks.get(saga_id)) is not None and task.is_current():
            del self._tasks[saga_id]
