"""Makes the snapshots that are missing: it follows the log at low priority and replays streams that lack some."""

import asyncio
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from cells.audit.history.live_snapshots import LiveSnapshots
from cells.audit.history.lookups import PostgresHistoryLookups
from cells.audit.history.questions import History
from cells.audit.history.snapshots import is_due
from cells.audit.reconcile.trial import HOUSE_EVERY, TrialBalances
from cells.background import BackgroundTask, LeaderTask
from cells.domain.audit.refusals import Damaged
from cells.domain.values import Kind, Ref
from cells.encoding import codec
from cells.encoding.codec import UnknownEvent
from cells.store.ports import StoreError
from cells.writer.lineage import SNAPSHOT_EVENTS

log = structlog.get_logger()

# Positions per scan.
SCAN = 2_000
# The ratio of rest to work. While commands are decided it uses at most a fiftieth of the process's time, whatever the
# backlog, and otherwise a tenth, so that queries are answered meanwhile.
REST_BUSY, REST_IDLE = 49, 9
# The polling interval when there is nothing to do.
POLL_S = 1.0


@dataclass(slots=True, kw_only=True)
class Snapshotter(LeaderTask):
    """Works while this process leads. It logs and skips streams that it cannot read."""

    history: History
    store: PostgresHistoryLookups
    trial: TrialBalances
    live: LiveSnapshots
    background: BackgroundTask = field(init=False)

    def __post_init__(self) -> None:
        self.background = BackgroundTask(name="snapshots", work=self._step_and_rest, outages=(StoreError,))

    async def _step_and_rest(self) -> None:
        clock = self.history.time.clock
        began_s = clock.monotonic_s()
        # Both, so that neither waits for the other.
        proved = await self.live.prove()
        behind = await self.step() or proved
        took_s = clock.monotonic_s() - began_s
        rest = REST_BUSY if self.history.deciding() else REST_IDLE
        await asyncio.sleep(max(took_s * rest, 0 if behind else POLL_S))

    async def catch_up(self) -> None:
        """Makes all snapshots that are due, without rests."""
        while await self.step():
            pass

    async def step(self) -> bool:
        """Scans the next part of the log; returns whether there is more."""
        done, head = await self.store.progress(), self.history.time.durable_position
        if done >= head:
            return False
        until = min(done + SCAN, head)
        for aggregate_id, version, position in await self.store.due(done, until, SNAPSHOT_EVENTS):
            await self._keep(aggregate_id, version, position)
        if until // HOUSE_EVERY > done // HOUSE_EVERY:
            await self._keep_house(until - until % HOUSE_EVERY)
        await self.store.set_progress(until)
        return until < head

    async def _keep(self, aggregate_id: UUID, version: int, position: int) -> None:
        lookups = self.history.lookups
        last = await lookups.snapshot_at(aggregate_id, position)
        if last is not None and not is_due(version, last.stream_version, len(last.state)):
            return
        [source] = await lookups.rows_at([position])
        kind = _kind_of(source.row.event_type)
        if kind is None:
            return
        try:
            await self.history.fold(Ref(kind, aggregate_id), position)
        except Damaged as error:
            # Queries of this stream's past are refused; other streams are not affected.
            log.critical("snapshot_refused", aggregate_id=str(aggregate_id), position=position, problem=error.message)

    async def _keep_house(self, position: int) -> None:
        try:
            await self.trial.keep(position)
        except Damaged as error:
            log.critical("house_snapshot_refused", position=position, problem=error.message)


def _kind_of(event_type: str) -> Kind | None:
    try:
        kind = codec.kind_of(event_type)
    except UnknownEvent:
        return None
    return kind if kind in codec.STATES else None
