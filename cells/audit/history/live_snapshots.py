"""Makes snapshots while the log is written, of the states that the writer has anyway.

A state that the writer has evolved from a stream's first event is what the events come to. One that it has evolved from
a loaded row is so if that row was: before any snapshot is made of it, one state is compared with a fold of the events.
"""

from collections import deque
from dataclasses import dataclass, field

import structlog

from cells.audit.history.questions import History
from cells.audit.history.snapshots import Snapshot, is_due
from cells.audit.history.snapshotter import rest_s
from cells.background import BackgroundTask, LeaderTask
from cells.domain.audit.refusals import Damaged
from cells.encoding import codec
from cells.store.ports import POSITION_MAX, StoreError
from cells.writer.batch import Commit, DueSnapshot

log = structlog.get_logger()

KEEP_EVERY_S = 0.1
# Of the states that wait for their snapshot, the oldest are dropped: the snapshotter makes those from the events.
WAITING_MAX = 4_096
# Snapshots per statement; other tasks of this process run in between.
SLICE = 16
# A stream with more events since its last snapshot waits until the snapshotter has come to it.
PROOF_EVENTS_MAX = 4_096


@dataclass(slots=True, kw_only=True)
class LiveSnapshots(LeaderTask):
    """Follows the commits of this process while it leads."""

    history: History
    background: BackgroundTask = field(init=False)
    _waiting: deque[DueSnapshot] = field(default_factory=lambda: deque(maxlen=WAITING_MAX))
    _prove_at_s: float = 0.0

    def __post_init__(self) -> None:
        self.background = BackgroundTask(
            name="live_snapshots", work=self.keep, every_s=KEEP_EVERY_S, outages=(StoreError,)
        )

    def follow(self, commit: Commit) -> None:
        self._waiting.extend(each for each in commit.snapshots if each.aggregate.kind in codec.STATES)

    async def keep(self) -> None:
        """Makes the snapshots that may be made, and proves the lineage of another, which rests after it as long."""
        unproven = [each for each in self._waiting if not each.lineage.proven]
        proven = [each for each in self._waiting if each.lineage.proven]
        self._waiting.clear()
        self._waiting.extend(unproven)
        for first in range(0, len(proven), SLICE):
            due = map(self._snapshot, proven[first : first + SLICE])
            await self.history.lookups.put(*(each for each in due if each is not None))
        clock = self.history.time.clock
        began_s = clock.monotonic_s()
        if unproven and began_s >= self._prove_at_s:
            await self._prove(unproven[0])
            ended_s = clock.monotonic_s()
            self._prove_at_s = ended_s + rest_s(self.history, ended_s - began_s)

    def _snapshot(self, due: DueSnapshot) -> Snapshot | None:
        """None: its state is large, and the last one was not long ago."""
        ref, version, state = due.aggregate, due.after.stream_version, codec.encode_state(due.after.state)
        if not is_due(version, due.lineage.kept_version, len(state)):
            return None
        due.lineage.kept_version = version
        return self.history.sealed(Snapshot(ref.id, due.position, version, ref.kind, state, due.leaf_hash, b""))

    async def _prove(self, due: DueSnapshot) -> None:
        """Compares the state with the events since the stream's last snapshot."""
        lineage, version = due.lineage, due.after.stream_version
        begun = await self.history.begun(due.aggregate, due.position)
        if version - begun.version > PROOF_EVENTS_MAX:
            self._drop(due)
            return
        try:
            fold = await self.history.fold(due.aggregate, due.position)
            problem = "" if fold.state == due.after.state else "the writer's state is not what the events come to"
        except Damaged as error:
            problem = error.message
        lineage.kept_version, lineage.proven = begun.version, not problem
        if problem:
            # Questions about this stream are answered from its events, or refused.
            log.critical("snapshot_refused", aggregate=str(due.aggregate), position=due.position, problem=problem)
            lineage.due_version = POSITION_MAX
            self._drop(*(each for each in self._waiting if each.lineage is lineage))

    def _drop(self, *dues: DueSnapshot) -> None:
        for each in dues:
            self._waiting.remove(each)
