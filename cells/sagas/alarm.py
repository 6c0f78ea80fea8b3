"""Sagas that are stuck do not stay silent: a compensation that fails is an operator's business."""

import asyncio
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from cells.ports import Clock
from cells.sagas.engine import SagaEngine
from cells.waits import ended

log = structlog.get_logger()

LOOK_S = 10.0
# Told one by one; of more, their number.
TOLD_MAX = 20


@dataclass(slots=True, kw_only=True)
class StuckAlarm:
    """Says at the level of errors, once for each, which sagas have become stuck."""

    engine: SagaEngine
    clock: Clock
    _told: frozenset[UUID] = frozenset()
    _task: asyncio.Task[None] | None = field(default=None)

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        task, self._task = self._task, None
        self._told = frozenset()
        await ended(task)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        now_s = self.clock.monotonic_s()
        stuck = {saga_id: run for saga_id, run in self.engine.in_flight.items() if run.is_stuck(now_s)}
        fresh = [saga_id for saga_id in stuck if saga_id not in self._told]
        for saga_id in fresh[:TOLD_MAX]:
            run = stuck[saga_id]
            spec = run.saga.current
            log.error(
                "saga_stuck",
                saga_id=str(saga_id),
                state=run.saga.state.value,
                leg=spec.leg if spec is not None else "",
                peer=run.saga.cell_of(spec) if spec is not None else "",
                attempts=run.attempts,
                stuck_s=round(now_s - (run.since_s or now_s)),
                problem=run.last_error or f"{run.waits_for} does not answer",
            )
        if len(fresh) > TOLD_MAX:
            log.error("more_sagas_stuck", sagas_count=len(fresh) - TOLD_MAX)
        self._told = frozenset(stuck)
