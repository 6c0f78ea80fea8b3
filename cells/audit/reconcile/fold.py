"""Replays the log, event by event, into the expected contents of the tables: states and rows derived from events.

Pure: callers pass in the rows and their positions. An event that cannot be read or does not follow halts only its
stream; the state before it then no longer counts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from msgspec import UNSET, Struct, to_builtins

from cells.audit.reconcile.findings import Check, Finding, shown
from cells.domain.account.account import Account
from cells.domain.decision import State
from cells.domain.event import Movement
from cells.domain.events import AnyEvent
from cells.domain.evolve import evolve, marked
from cells.domain.sagas.leg import LegBarrier, LegResult
from cells.domain.sagas.saga import Saga
from cells.domain.sagas.saga_events import SagaLegCompensated, SagaLegCompleted, SagaPivotFoundDone
from cells.domain.values import Direction, Kind, LegId
from cells.encoding import codec
from cells.encoding.derived import USES_REFERENCES, account_entry, clearing_entries, reference_rows
from cells.encoding.leaves import Line, Recorded
from cells.encoding.schema import Json
from cells.store.ports import AccountEntryRow, ClearingEntryRow, LegRow, ReferenceRow

WRITTEN = "the event that was written there"
FOLLOWS = "an event that can be read, and that goes on from the one before in its stream"


class OutOfOrder(Exception):
    """The event does not follow from the state of its stream."""


class StoredEvent(Struct, gc=False):
    """The part of an event_store row that a replay needs. `leg` is the mark in its metadata.

    `payload` is Recorded. If it is no payload of such an event, it holds any JSON that the row holds, as `version` and
    `leg` do, so reading them does not fail.
    """

    position: int
    event_id: UUID
    event_type: str
    aggregate_id: UUID
    stream_version: int
    version: Any
    payload: Any
    leg: Any = None
    # How the row differs from the one that was written; empty if it does not.
    problem: str = ""
    # The hash that the row's bytes give; empty if they give none.
    leaf_hash: bytes = b""


class ReplayedState(Struct, gc=False):
    """The state of a stream's aggregate after the event of that number."""

    kind: Kind
    state: State
    stream_version: int


class NotAsWritten(Exception):
    """The row differs from the one that was written."""


class Claim(NamedTuple):
    """A saga's record of one of its legs in this cell, and the position of that record."""

    leg_id: UUID
    direction: str
    result: str
    event_id: UUID
    saga_id: UUID
    position: int


@dataclass(slots=True)
class Page:
    """The rows that events of consecutive positions must have produced, by table."""

    account_entries: list[AccountEntryRow] = field(default_factory=list)
    clearing_entries: list[ClearingEntryRow] = field(default_factory=list)
    saga_legs: list[LegRow] = field(default_factory=list)
    external_references: list[ReferenceRow] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    # Positions whose snapshots differ from the replay.
    wrong_snapshots: list[int] = field(default_factory=list)
    # Positions with unknown expected rows: their streams halted there or before.
    unreadable: set[int] = field(default_factory=set)


@dataclass(slots=True, kw_only=True)
class Fold:
    """The states of aggregates as replayed. To continue from a state, put it in first."""

    cell: str
    states: dict[UUID, ReplayedState] = field(default_factory=dict)
    # (account, currency) -> minor units that the events moved.
    house: dict[tuple[str, str], int] = field(default_factory=dict)
    # Stream -> where and why its replay halted.
    halted: dict[UUID, str] = field(default_factory=dict)
    # Streams whose states have changed.
    touched: set[UUID] = field(default_factory=set)
    # Position -> the stored state of the stream after that event, to compare with the replay.
    snapshots: dict[int, str] = field(default_factory=dict)

    def apply(self, events: Sequence[StoredEvent]) -> Page:
        """Applies events in the order of positions, or at least each stream's in the order of versions."""
        page = Page()
        for stored in events:
            if stored.aggregate_id in self.halted:
                page.unreadable.add(stored.position)
                continue
            try:
                self._take(stored, page)
            except Exception as error:  # noqa: BLE001 - any error of an event halts only its stream
                self._halt(stored, error, page)
        return page

    def _take(self, stored: StoredEvent, page: Page) -> None:
        """Applies one event. An event that raises leaves no trace."""
        if stored.problem:
            raise NotAsWritten(stored.problem)
        position, event_id, aggregate_id = stored.position, stored.event_id, stored.aggregate_id
        payload, known = stored.payload, self.states.get(stored.aggregate_id)
        if type(payload) is Recorded:
            event, postings = payload.event, payload.postings
        else:
            event = codec.decode_content(stored.event_type, int(stored.version), payload)
            postings = payload.get("postings", UNSET)
        kind = event.kind
        before = _followed(kind, stored.stream_version, known)
        state = evolve(before, event, event_id)
        movement = event.movement()
        if stored.leg is not None:
            page.saga_legs.append(_leg_row(event, stored.leg, event_id, position))
        if movement is not None:
            self._move(event, movement, stored, state, page)
        if movement is not None or postings is not UNSET:
            _check_postings(movement, postings, stored, kind, page)
        if isinstance(before, Saga):
            page.claims.extend(_claims(self.cell, before, event, aggregate_id, position))
        elif type(event) in USES_REFERENCES:
            page.external_references.extend(reference_rows(event, position))  # type: ignore[arg-type]
        if state is not None:
            if known is None:
                self.states[aggregate_id] = ReplayedState(kind, state, stored.stream_version)
            else:
                known.state, known.stream_version = state, stored.stream_version
            self.touched.add(aggregate_id)
            if position in self.snapshots:
                self._compare_snapshot(position, aggregate_id, kind, state, page)

    def _compare_snapshot(self, position: int, aggregate_id: UUID, kind: Kind, state: State, page: Page) -> None:
        kept, right = self.snapshots[position], codec.encode_state(state)
        if not codec.same_state(kind, right, kept):
            row = f"snapshots ({aggregate_id}, {position})"
            page.findings.append(Finding(check=Check.SNAPSHOT, row=row, expected=shown(right), found=shown(kept)))
            page.wrong_snapshots.append(position)

    def _move(self, event: AnyEvent, movement: Movement, stored: StoredEvent, state: State | None, page: Page) -> None:
        position = stored.position
        if isinstance(state, Account):
            page.account_entries.append(account_entry(stored.aggregate_id, movement, state, position))
        if movement.house:
            for account, change in movement.house:
                key = (account, movement.currency)
                self.house[key] = self.house.get(key, 0) + change
            page.clearing_entries.extend(clearing_entries(event, movement, position))

    def _halt(self, stored: StoredEvent, error: Exception, page: Page) -> None:
        aggregate_id, position = stored.aggregate_id, stored.position
        event = f"{stored.event_type} {stored.event_id}"
        where = f"position {position}: {event}, number {stored.stream_version} of stream {aggregate_id}"
        foreign = isinstance(error, NotAsWritten)
        problem = shown(str(error) if foreign else f"{type(error).__name__}: {error}")
        self.halted[aggregate_id] = f"{where}: {problem}"
        self.states.pop(aggregate_id, None)
        self.touched.discard(aggregate_id)
        page.unreadable.add(position)
        expected = WRITTEN if foreign else FOLLOWS
        page.findings.append(Finding(check=Check.EVENT, row=where, expected=expected, found=problem))


def _followed(kind: Kind, stream_version: int, known: ReplayedState | None) -> State | None:
    """The state that an event follows from. Raises OutOfOrder."""
    if known is None:
        if stream_version != 1:
            raise OutOfOrder(f"nothing is known of the stream before its number {stream_version}")
        return None
    if known.kind is not kind:
        raise OutOfOrder(f"an event of a {kind} in the stream of a {known.kind}")
    if stream_version != known.stream_version + 1:
        raise OutOfOrder(f"number {stream_version} comes after number {known.stream_version}")
    return known.state


def _leg_row(event: AnyEvent, mark: dict[str, Any], event_id: UUID, position: int) -> LegRow:
    tag = codec.leg_tag(mark)
    barrier = marked(LegBarrier(), tag, event, event_id)
    done = barrier.action or barrier.compensation
    result = done.result.value if done is not None else ""
    return LegRow(tag.barrier_id, tag.direction.value, result, event_id, position)


def _claims(cell: str, saga: Saga, event: AnyEvent, saga_id: UUID, position: int) -> Iterator[Claim]:
    """The claim of an event, if the leg was in this cell."""
    match event:
        case SagaLegCompleted() | SagaPivotFoundDone():
            direction, result = Direction.ACTION, LegResult.APPLIED.value
        case SagaLegCompensated():
            direction, result = Direction.COMPENSATION, event.result
        case _:
            return
    spec = saga.current
    if spec is None or spec.leg != event.leg:
        raise OutOfOrder(f"leg {event.leg} where {spec.leg if spec else 'no leg'} was due")
    if saga.cell_of(spec) == cell:
        leg_id = LegId(saga_id, event.leg, event.generation).aggregate_id()
        yield Claim(leg_id, direction.value, result, event.effect_id, saga_id, position)


def _check_postings(movement: Movement | None, found: Json, stored: StoredEvent, kind: Kind, page: Page) -> None:
    """Compares the stored postings with the event's own. An event that moves no money has none, not an empty list."""
    expected: list[Line] = []
    if movement is not None:
        lines = movement.lines(kind, stored.aggregate_id)
        expected = [Line(account, str(change), currency) for account, currency, change in lines]
        if found == expected or to_builtins([] if found is UNSET else found) == to_builtins(expected):
            return
    row = f"position {stored.position}: {stored.event_type} {stored.event_id}"
    right, wrong = shown(to_builtins(expected)), shown(None if found is UNSET else to_builtins(found))
    page.findings.append(Finding(check=Check.POSTINGS, row=row, expected=right, found=wrong))
