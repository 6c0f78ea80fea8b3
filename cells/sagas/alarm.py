"""Logs stuck sagas, so that an operator learns of a compensation that keeps failing."""

from dataclasses import dataclass
from uuid import UUID

import structlog

from cells.background import LeaderTask, in_background
from cells.sagas.engine import SagaEngine
from cells.store.ports import Clock

log = structlog.get_logger()

POLL_S = 10.0
# At most this many are logged one by one; beyond that, only their number is.
LOG_MAX = 20


@dataclass(slots=True, kw_only=True)
class StuckAlarm(LeaderTask):
    """Logs each saga that has become stuck once, at ERROR."""

    engine: SagaEngine
    clock: Clock
    _reported: frozenset[UUID] = frozenset()

    async def stop(self) -> None:
        await self.background.stop()
        self._reported = frozenset()

    @in_background("stuck_alarm", every_s=POLL_S)
    async def poll(self) -> None:
        now_s = self.clock.monotonic_s()
        stuck = {saga_id: run for saga_id, run in self.engine.in_flight.items() if run.is_stuck(now_s)}
        fresh = [saga_id for saga_id in stuck if saga_id not in self._reported]
        for saga_id in fresh[:LOG_MAX]:
            run = stuck[saga_id]
            log.error(
                "saga_stuck",
                saga_id=str(saga_id),
                state=run.saga.state.value,
                leg=run.leg_id.leg,
                peer=run.cell,
                attempts=run.attempts,
                stuck_s=round(now_s - (run.since_s or now_s)),
                problem=run.last_error or f"{run.waits_for} does not answer",
            )
        if len(fresh) > LOG_MAX:
            log.error("more_sagas_stuck", sagas_count=len(fresh) - LOG_MAX)
        self._reported = frozenset(stuck)
