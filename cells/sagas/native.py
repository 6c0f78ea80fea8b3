"""The native engine: one background task per saga, no other server. Its durable state is the cell's log."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

from cells.background import BackgroundTask
from cells.domain.refusals import NotLeading
from cells.domain.sagas.saga_refusals import SagasDrivenHere
from cells.sagas.engine import SagaEngine, Step
from cells.sagas.executions import SagaExecution


@dataclass(slots=True, kw_only=True)
class NativeEngine(SagaEngine):
    _tasks: dict[UUID, BackgroundTask] = field(default_factory=dict)

    async def _stopped(self) -> None:
        await asyncio.gather(*(task.stop() for task in list(self._tasks.values())))
        self._tasks.clear()

    def retry_now(self, saga_id: UUID) -> None:
        run = self.steps.executions.get(saga_id)
        if run is not None and not run.under_way and not run.saga.paused:
            self._changed(saga_id)
            self.steps.ask_now(run)

    async def advance(self, saga_id: str) -> Step:  # noqa: ARG002 - the port's signature
        raise SagasDrivenHere(cell=self.steps.cell)

    def _changed(self, saga_id: UUID) -> None:
        """A paused saga has no task once its attempt under way has ended and is recorded."""
        run = self.steps.executions.get(saga_id)
        if run is None or run.under_way:
            return
        if (task := self._tasks.pop(saga_id, None)) is not None:
            task.cancel()
        if not run.saga.paused:
            # An unexpected error delays only this saga: its leg is retried.
            task = BackgroundTask(name="saga", work=partial(self._drive, run), every_s=None)
            self._tasks[saga_id] = task
            task.start()

    async def _drive(self, run: SagaExecution) -> None:
        with suppress(NotLeading):
            while not (run.saga.ended or run.saga.paused):
                pause_s = await self.steps.execute_leg(run)
                if pause_s:
                    await asyncio.sleep(pause_s)
        # A stopped task may have a successor.
        if (task := self._tasks.get(run.saga_id)) is not None and task.is_current():
            del self._tasks[run.saga_id]
