"""Compares the stored state of a stream with its events: it reads every event and compares every snapshot."""

from dataclasses import dataclass, field
from uuid import UUID

from cells.audit.history.moments import Moment, Point
from cells.audit.history.questions import Fold, History
from cells.domain.audit.refusals import NothingToTrace, NotThereYet
from cells.domain.values import Kind, Ref
from cells.encoding import codec

# The maximum number of problems in an answer.
PROBLEMS_MAX = 100


@dataclass(slots=True, kw_only=True)
class StreamVerification:
    kind: Kind
    point: Point
    stream_version: int = 0
    events_read: int = 0
    snapshots_compared: int = 0
    present_compared: bool = False
    state: str = ""
    problems: list[str] = field(default_factory=list)


async def verify_stream(history: History, aggregate_id: UUID, moment: Moment | None) -> StreamVerification:
    """Raises NothingToTrace, NotThereYet, what `History.point` raises, and Damaged for a damaged event."""
    if moment is None:
        moment = Moment(position=(await history.store.head()).position)
    point = await history.point(moment)
    first = await history.lookups.stream_begins(aggregate_id)
    if first is None:
        raise NothingToTrace(subject=str(aggregate_id), cells=history.cell)
    if first > point.position:
        what = f"stream {aggregate_id}"
        raise NotThereYet(what=what, position=point.position, cell=history.cell, first_position=first)
    [begun] = await history.lookups.rows_at([first])
    ref = Ref(codec.kind_of(history.intact(begun).event_type), aggregate_id)
    verification = StreamVerification(kind=ref.kind, point=point)
    fold = await _folded(history, ref, verification)
    verification.stream_version, verification.events_read = fold.version, fold.events_read
    verification.state = codec.encode_state(fold.state) if fold.state is not None else ""
    await _compare_present(history, ref, verification)
    return verification


async def _folded(history: History, ref: Ref, verification: StreamVerification) -> Fold:
    snapshots = {each.position: each for each in await history.lookups.snapshots_of(ref.id)}
    fold = Fold()
    async for each in history.events_after(ref, 0, verification.point.position):
        history.step(fold, ref, each)
        snapshot = snapshots.get(each.row.position)
        if snapshot is None or fold.state is None:
            continue
        verification.snapshots_compared += 1
        # Compare values: a snapshot of an older version lacks fields that were added since.
        state = codec.decode_state(ref.kind, snapshot.state)
        said = (snapshot.stream_version, state, bytes(snapshot.leaf_hash), history.key.sealed(snapshot))
        if said != (fold.version, fold.state, bytes(each.row.leaf_hash), True):
            _tell(verification, f"the snapshot at position {each.row.position} is not what the events come to")
    return fold


async def _compare_present(history: History, ref: Ref, verification: StreamVerification) -> None:
    if ref.kind not in codec.STATES:
        return
    present = (await history.store.load([ref])).get(ref)
    # A past moment has no present state to compare; a later check reads the events since.
    if present is None or present.stream_version != verification.stream_version:
        return
    verification.present_compared = True
    if codec.encode_state(present.state) != verification.state:
        _tell(verification, "the state that the cell works with is not what the events come to")


def _tell(verification: StreamVerification, problem: str) -> None:
    if len(verification.problems) < PROBLEMS_MAX:
        verification.problems.append(problem)
