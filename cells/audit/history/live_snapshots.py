"""Makes snapshots while the log is written, of the states that the writer has anyway.

A state that the writer has evolved from a stream's first event is what the events come to. One that it has evolved from
a loaded row is so if that row was: before any snapshot is made of it, one state is compared with a fold of the events.
"""

from dataclasses import dataclass, field

import structlog

from cells.audit.history.questions import History
from cells.audit.history.snapshots import Snapshot, is_due
from cells.background import BackgroundTask, LeaderTask
from cells.domain.audit.refusals import Damaged
from cells.encoding import codec
from cells.store.ports import POSITION_MAX, StoreError
from cells.writer.batch import Commit, DueSnapshot

log = structlog.get_logger()

KEEP_EVERY_S = 0.1
# Snapshots per statement; other tasks of this process run in between.
SLICE = 16
# States that wait for their snapshot, lineages that wait for their proof, and states of each. Beyond that, states are
# dropped: the snapshotter makes those snapshots from the events.
WAITING_MAX, UNPROVEN_MAX, OF_EACH_MAX = 4_096, 4_096, 64
# A stream with more events since its last snapshot waits until the snapshotter has come to it.
PROOF_EVENTS_MAX = 4_096


@dataclass(slots=True, kw_only=True)
class LiveSnapshots(LeaderTask):
    """Follows the commits of this process while it leads."""

    history: History
    background: BackgroundTask = field(init=False)
    _waiting: list[DueSnapshot] = field(default_factory=list)
    # By the identity of the lineage that is not proven.
    _unproven: dict[int, list[DueSnapshot]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.background = BackgroundTask(
            name="live_snapshots", work=self.keep, every_s=KEEP_EVERY_S, outages=(StoreError,)
        )

    def follow(self, commit: Commit) -> None:
        if commit.snapshots and len(self._waiting) < WAITING_MAX:
            self._waiting += [each for each in commit.snapshots if each.aggregate.kind in codec.STATES]

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
