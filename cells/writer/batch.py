"""A batch of commands: their rows for one transaction, and the answers that its commit releases."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, cast
from uuid import UUID

from cells.domain.account.account import Account
from cells.domain.audit.events import AccessesRecorded, ProjectionsRebuilt, ReconciliationFailed
from cells.domain.decision import Decision, Ending, Replacement, UncommittedEvent
from cells.domain.event import Movement
from cells.domain.events import AnyEvent, AssetRegistered, AuctionCreated
from cells.domain.evolve import evolve, marked
from cells.domain.moves.events import AccountArrived
from cells.domain.record import Struct, made
from cells.domain.refusals import HouseAccountFull, Refused, Unstorable
from cells.domain.sagas.leg import LegBarrier, UsedReference
from cells.domain.sagas.saga_events import SagaStarted, begun_by
from cells.domain.time.hlc import Stamp
from cells.domain.values import Kind, LegTag, Ref
from cells.encoding import codec
from cells.encoding.derived import (
    PROJECTED,
    USES_REFERENCES,
    UsesReferences,
    account_entry,
    clearing_entries,
    reference_rows,
    state_columns,
)
from cells.requests import CommandRequest, Outcome
from cells.store.ports import Batch, EventRow, LegRow, OutcomeRow, Poisoned, ProjectionRow, StoreError
from cells.time.celltime import CellTime
from cells.writer.cache import NotLoaded, StateCache
from cells.writer.lineage import SNAPSHOT_EVENTS, CachedState, Lineage
from cells.writer.queue import Pending

# First events of streams with new ids: there is nothing to load.
BEGINNINGS = (
    AssetRegistered | AuctionCreated | SagaStarted | ReconciliationFailed | ProjectionsRebuilt | AccessesRecorded
)
# SQLSTATE numeric_value_out_of_range.
OUT_OF_RANGE = "22003"

Answer = Outcome | Refused | Exception


class ReplayTooOld(Exception):
    """A replayed state lacks events that have been decided since."""


class DueSnapshot(NamedTuple):
    """A state in the middle of a batch, and the event after which it was this. `lineage` is that of the state."""

    aggregate: Ref
    after: CachedState
    lineage: Lineage
    position: int
    leaf_hash: bytes


class Committed(Struct, frozen=True):
    """An event as followers of the log within the process see it."""

    row: EventRow
    aggregate: Ref
    event: AnyEvent


@dataclass(frozen=True, slots=True)
class Commit:
    """Newly durable events and answers, for followers of the log within the process."""

    events: Sequence[Committed]
    endings: Sequence[Ending]
    # The number of commands that it answers, and the duration of the transaction; 0 if there was none.
    commands: int = 0
    write_s: float = 0.0
    snapshots: Sequence[DueSnapshot] = ()


@dataclass(slots=True, kw_only=True)
class DecidedBatch:
    """The commands of one transaction, first decided, then committing, then durable: their rows and their answers.

    Positions continue from `rows.position_before`, without gaps.
    """

    cache: StateCache
    rows: Batch
    # Released by the commit.
    answers: list[tuple[Pending, Answer]] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)
    committed: list[Committed] = field(default_factory=list)
    # Sagas that users begin in this batch.
    begun: Counter[UUID | str] = field(default_factory=Counter)
    touched: dict[Ref, CachedState] = field(default_factory=dict)
    # States of which snapshots are due.
    snapshots: list[DueSnapshot] = field(default_factory=list)
    # Answers of the batch ahead to commands that were sent to other cells.
    brought_ahead: Sequence[OutcomeRow] = ()
    # The transaction, once it is under way.
    commit: asyncio.Task[StoreError | None] | None = None
    # The recording time of events, as of the last reading.
    recorded_at: datetime = field(init=False, repr=False)
    stamp: Callable[[], Stamp] = field(init=False, repr=False)
    # The time of decisions: that of the next event's stamp.
    now_ms: Callable[[], int] = field(init=False, repr=False)
    # The vector clock with a placeholder for the own position: '{"eu-west":7,"us-east":%d}'.
    vector_template: str = field(init=False, repr=False)

    @property
    def pendings(self) -> list[Pending]:
        return [pending for pending, _ in self.answers]

    @property
    def position(self) -> int:
        """The position of the last event so far."""
        return self.rows.position_before + len(self.rows.events)

    def read_clocks(self, time: CellTime) -> None:
        """Reads the clocks, for everything recorded until the next reading."""
        self.recorded_at = time.clock.wall()
        self.stamp, self.now_ms = time.stamps()
        self.vector_template = vector_template(time.cell, time.known)

    def record(self, request: CommandRequest, uncommitted: list[UncommittedEvent]) -> None:
        """Evolves the states that the drafts touch, and writes their rows.

        All or nothing: if anything raises, such as a bug in `evolve` or a value without a stored form, nothing of the
        command is kept.

        Raises:
            NotLoaded: a draft belongs to an aggregate that was not loaded.
            ClockAtBound: the promised time does not suffice for all of the drafts.
        """
        position = self.position
        latest: dict[Ref, CachedState] = {}
        written = []
        for event_draft in uncommitted:
            position += 1
            after = self._after(event_draft, latest)
            movement = event_draft.event.movement()
            written.append((event_draft, after, movement, self._row(request, event_draft, after, position, movement)))
        for each in written:
            self._write(*each)
            if isinstance(each[0].event, AccountArrived):
                self.cache.forget_absent()

    def replay(self, row: EventRow, event: AnyEvent, leg: LegTag | None) -> None:
        """As `record`, for an event that already has its row. Its aggregate and its leg must have been loaded.

        Raises:
            ValueError: it is not the next event of its stream.
        """
        event_draft = UncommittedEvent(
            event_id=row.event_id, aggregate=Ref(event.kind, row.aggregate_id), event=event, leg=leg
        )
        after = self._after(event_draft, {})
        if after.stream_version != row.stream_version:
            raise ValueError(f"version {row.stream_version} of stream {row.aggregate_id} is not the next one")
        self._write(event_draft, after, event.movement(), row)

    def _after(self, event_draft: UncommittedEvent, latest: dict[Ref, CachedState]) -> CachedState:
        """The state after the draft, on top of the command's `latest` states. The cache is not changed."""
        aggregate, event = event_draft.aggregate, event_draft.event
        before = latest.get(aggregate) or self.cache.get(aggregate)
        if before is not None:
            state, version, lineage = before.state, before.stream_version, before.lineage
        elif isinstance(event, BEGINNINGS) or self.cache.has(aggregate):
            state, version, lineage = None, 0, Lineage()
        else:
            raise NotLoaded(aggregate)
        # A tombstone's stream has no state of its own: its barrier follows from its mark.
        after = CachedState(evolve(state, event, event_draft.event_id) or LegBarrier(), version + 1, lineage)
        latest[aggregate] = after
        return after

    def _write(
        self, event_draft: UncommittedEvent, after: CachedState, movement: Movement | None, row: EventRow
    ) -> None:
        self.rows.events.append(row)
        self.committed.append(Committed(row, event_draft.aggregate, event_draft.event))
        self._put(event_draft.aggregate, after)
        lineage = after.lineage
        if lineage is not None and after.stream_version >= lineage.due_version:
            lineage.due_version = after.stream_version + SNAPSHOT_EVENTS
            self.snapshots.append(DueSnapshot(event_draft.aggregate, after, lineage, row.position, row.leaf_hash))
        if isinstance(event_draft.event, SagaStarted) and (begun := begun_by(event_draft.event.facts)) is not None:
            self.begun[begun] += 1
        if movement is not None:
            self._post(event_draft, movement, after, row.position)
        if event_draft.leg is not None:
            self._mark(event_draft, row.position)
        if type(event_draft.event) in USES_REFERENCES:
            self._use_references(cast("UsesReferences", event_draft.event), row.position)

    def require_current(self, replacements: Sequence[Replacement]) -> None:
        """Raises ReplayTooOld."""
        for ref, _, version in replacements:
            known = self.cache.get(ref)
            if known is not None and known.stream_version > version:
                raise ReplayTooOld(f"{ref} is at version {known.stream_version}, its replay at {version}")

    def replace(self, decision: Decision) -> None:
        """Writes states that no event makes, and corrects house accounts without a posting: rows that were wrong."""
        for ref, state, version in decision.replaced:
            self._put(ref, CachedState(state, version))
        changes = self.rows.house_changes
        for key, change in decision.corrections.items():
            changes[key] = changes.get(key, 0) + change

    def _row(
        self,
        request: CommandRequest,
        event_draft: UncommittedEvent,
        after: CachedState,
        position: int,
        movement: Movement | None,
    ) -> EventRow:
        event, aggregate = event_draft.event, event_draft.aggregate
        hlc_physical, hlc_logical = self.stamp()
        columns = (
            position,
            event_draft.event_id,
            event.event_type,
            aggregate.id,
            after.stream_version,
            event_draft.caused_by or request.causation_id,
            event_draft.correlation_id or request.correlation_id,
            hlc_physical,
            hlc_logical,
            self.vector_template % position,
            codec.encode_event(event, movement.lines(aggregate.kind, aggregate.id) if movement is not None else ()),
            codec.encode_metadata(
                event.version, request.command_id, request.principal, event_draft.leg, request.authority
            ),
            request.user_id,
            self.recorded_at,
        )
        return made(EventRow, (*columns, codec.hash_of(columns)))

    def _put(self, ref: Ref, entry: CachedState) -> None:
        self.cache.put(ref, entry)
        self.touched[ref] = entry

    def _post(self, event_draft: UncommittedEvent, movement: Movement, after: CachedState, position: int) -> None:
        if isinstance(after.state, Account):
            self.rows.account_entries.append(account_entry(event_draft.aggregate.id, movement, after.state, position))
        if not movement.house:
            return
        changes = self.rows.house_changes
        for account, change in movement.house:
            key = (account, movement.currency)
            changes[key] = changes.get(key, 0) + change
        self.rows.clearing_entries.extend(clearing_entries(event_draft.event, movement, position))

    def _mark(self, event_draft: UncommittedEvent, position: int) -> None:
        if event_draft.leg is None:
            return
        leg_id = event_draft.leg.barrier_id
        ref = Ref(Kind.LEG, leg_id)
        before = self.cache.get(ref)
        known = before.state if before is not None and isinstance(before.state, LegBarrier) else LegBarrier()
        barrier = marked(known, event_draft.leg, event_draft.event, event_draft.event_id)
        self._put(ref, CachedState(barrier, before.stream_version if before else 0))
        mark = barrier.action if event_draft.leg.direction == "action" else barrier.compensation
        if mark is not None:
            self.rows.legs.append(
                LegRow(leg_id, event_draft.leg.direction.value, mark.result.value, event_draft.event_id, position)
            )

    def _use_references(self, event: UsesReferences, position: int) -> None:
        for row in reference_rows(event, position):
            self._put(Ref(Kind.REFERENCE, row.reference_id), CachedState(UsedReference(position=position), 0))
            self.rows.references.append(row)

    def sealed(self, *, epoch: int, hlc_bound_ms: int) -> Batch:
        """The rows of the transaction; each changed state is written once, in its final form."""
        rows = self.rows
        rows.epoch, rows.hlc_bound_ms, rows.position_after = epoch, hlc_bound_ms, self.position
        rows.projections = [
            made(
                ProjectionRow,
                (
                    ref.kind,
                    ref.id,
                    entry.stream_version,
                    codec.encode_state(entry.state),
                    tuple(state_columns(entry.state).values()),
                ),
            )
            for ref, entry in self.touched.items()
            if ref.kind in PROJECTED
        ]
        return rows

    def not_stored(self, failure: Poisoned) -> Refused:
        """The refusal of the only command, which the database cannot store."""
        if failure.sqlstate == OUT_OF_RANGE:
            # Nothing else is added up by the database.
            changes = sorted(self.rows.house_changes)
            return HouseAccountFull(accounts=", ".join(f"{account} ({currency})" for account, currency in changes))
        command_id = str(self.answers[0][0].request.command_id) if self.answers else ""
        return Unstorable(command_id=command_id, sqlstate=failure.sqlstate)


def vector_template(cell: str, known: dict[str, int]) -> str:
    """Canonical JSON of a vector clock with `%d` in place of the own position. Cell names have no percent sign."""
    names = sorted({*known, cell})
    return "{" + ",".join(f'"{name}":%d' if name == cell else f'"{name}":{known[name]}' for name in names) + "}"
