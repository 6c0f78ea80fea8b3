"""The native engine: one task a saga, no other server. Its memory is the cell's log."""

import asyncio
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from cells.domain.refusals import NotLeading
from cells.group import Commit
from cells.ports import Store
from cells.sagas.runs import Run, Runs
from cells.sagas.steps import Steps

log = structlog.get_logger()


@dataclass(slots=True, kw_only=True)
class NativeEngine:
    store: Store
    steps: Steps
    _runs: Runs = field(default_factory=Runs)
    _tasks: dict[UUID, asyncio.Task[None]] = field(default_factory=dict)
    _running: bool = False

    def follow(self, commit: Commit) -> None:
        if self._running:
            for saga_id in self._runs.follow(commit):
                self._take_up(saga_id)

    async def start(self) -> None:
        self._running = True
        async for saga_id in self._runs.load(self.store):
            self._take_up(saga_id)

    async def stop(self) -> None:
        self._running = False
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._tasks.clear()
        self._runs.clear()

    def attempts(self, saga_id: UUID) -> tuple[int, str]:
        return self._runs.attempts(saga_id)

    def _take_up(self, saga_id: UUID) -> None:
        run = self._runs.get(saga_id)
        if run is not None:
            self._tasks[saga_id] = asyncio.create_task(self._drive(saga_id, run))

    async def _drive(self, saga_id: UUID, run: Run) -> None:
        try:
            while not run.saga.ended:
                pause_s = await self.steps.take(saga_id, run)
                if pause_s:
                    await asyncio.sleep(pause_s)
        except NotLeading:
            return
        except Exception:
            # A bug: this saga halts, loudly, and no other.
            log.exception("saga_halted", saga_id=str(saga_id))
        finally:
            self._tasks.pop(saga_id, None)
