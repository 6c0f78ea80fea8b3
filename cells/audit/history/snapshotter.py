"""Makes snapshots: while the log is written, of states that the writer has anyway, and later those that are missing.

A state that the writer has evolved from a stream's first event is what the events come to. One that it has evolved from
a loaded row is so if that row was: before any snapshot is made of it, one state is compared with a fold of the events.
"""

import asyncio
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from cells.audit.history.lookups import PostgresHistoryLookups
from cells.audit.history.questions import History
from cells.audit.history.snapshots import Snapshot, is_due
from cells.audit.reconcile.trial import HOUSE_EVERY, TrialBalances
from cells.background import LeaderTask, in_background
from cells.domain.audit.refusals import Damaged
from cells.domain.values import Kind, Ref
from cells.encoding import codec
from cells.encoding.codec import UnknownEvent
from cells.store.ports import POSITION_MAX, StoreError
from cells.writer.batch import Commit, DueSnapshot
from cells.writer.lineage import SNAPSHOT_EVENTS

log = structlog.get_logger()

KEEP_EVERY_S = 0.1
# Snapshots per statement; other tasks of this process run in between.
SLICE = 16
# States that wait for their snapshot, lineages that wait for their proof, and states of each. Beyond that, states are
# dropped: the snapshotter makes those snapshots from the events.
WAITING_MAX, UNPROVEN_MAX, OF_EACH_MAX = 4_096, 4_096, 64
# A stream with more events since its last snapshot waits until the snapshotter has come to it.
PROOF_EVENTS_MAX = 4_096
# Positions per scan.
SCAN = 2_000
# The ratio of rest to work. While commands are decided it uses at most a fiftieth of the process's time, whatever the
# backlog, and otherwise a tenth, so that queries are answered meanwhile.
REST_BUSY, REST_IDLE = 49, 9
# The polling interval when there is nothing to do.
POLL_S = 1.0


@dataclass(slots=True, kw_only=True)
class LiveSnapshots(LeaderTask):
    """Follows the commits of this process while it leads."""

    history: History
    _waiting: list[DueSnapshot] = field(default_factory=list)
    # By the identity of the lineage that is not proven.
    _unproven: dict[int, list[DueSnapshot]] = field(default_factory=dict)

    def follow(self, commit: Commit) -> None:
        if commit.snapshots and len(self._waiting) < WAITING_MAX:
            self._waiting += [each for each in commit.snapshots if each.aggregate.kind in codec.STATES]

    @in_background("live_snapshots", every_s=KEEP_EVERY_S, outages=(StoreError,))
    async def keep(self) -> None:
        """Makes the snapshots that may be made."""
        proven = [each for each in self._waiting if each.lineage.proven]
        for each in self._waiting:
            if not each.lineage.proven:
                self._wait_for_proof(each)
        self._waiting = []
        for first in range(0, len(proven), SLICE):
            due = map(self._snapshot, proven[first : first + SLICE])
            await self.history.lookups.put(*(each for each in due if each is not None))

    def _wait_for_proof(self, due: DueSnapshot) -> None:
        if len(self._unproven) < UNPROVEN_MAX or id(due.lineage) in self._unproven:
            dues = self._unproven.setdefault(id(due.lineage), [])
            if len(dues) < OF_EACH_MAX:
                dues.append(due)

    def _snapshot(self, due: DueSnapshot) -> Snapshot | None:
        """None: its state is large, and the last one was not long ago."""
        ref, version, state = due.aggregate, due.after.stream_version, codec.encode_state(due.after.state)
        if not is_due(version, due.lineage.kept_version, len(state)):
            return None
        due.lineage.kept_version = version
        return self.history.sealed(Snapshot(ref.id, due.position, version, ref.kind, state, due.leaf_hash, b""))

    async def prove(self) -> bool:
        """Compares one state of the next lineage with the events since the last snapshot; False if none waits."""
        if not self._unproven:
            return False
        dues = self._unproven.pop(next(iter(self._unproven)))
        first, lineage = dues[0], dues[0].lineage
        begun = await self.history.begun(first.aggregate, first.position)
        if first.after.stream_version - begun.version > PROOF_EVENTS_MAX:
            return True
        try:
            fold = await self.history.fold(first.aggregate, first.position)
            problem = "" if fold.state == first.after.state else "the writer's state is not what the events come to"
        except Damaged as error:
            problem = error.message
        if problem:
            # Questions about this stream are answered from its events, or refused.
            ref = first.aggregate
            log.critical(
                "snapshot_refused", kind=ref.kind, aggregate_id=str(ref.id), position=first.position, problem=problem
            )
            lineage.due_version = POSITION_MAX
        else:
            lineage.kept_version, lineage.proven = begun.version, True
            self._waiting += dues
        return True


@dataclass(slots=True, kw_only=True)
class Snapshotter(LeaderTask):
    """Works while this process leads. It logs and skips streams that it cannot read."""

    history: History
    store: PostgresHistoryLookups
    trial: TrialBalances
    live: LiveSnapshots

    def follow(self, commit: Commit) -> None:
        """Receives each commit of this process, in order."""
        self.trial.live.follow(commit)

    @in_background("snapshots", outages=(StoreError,))
    async def _step_and_rest(self) -> None:
        clock = self.history.time.clock
        began_s = clock.monotonic_s()
        # Both, so that neither waits for the other.
        proved = await self.live.prove()
        behind = await self.step() or proved
        took_s = clock.monotonic_s() - began_s
        rest = REST_BUSY if self.history.deciding() else REST_IDLE
        await asyncio.sleep(max(took_s * rest, 0 if behind else POLL_S))

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
