"""The event store in memory, the counterpart of the one on PostgreSQL.

It passes the same conformance suite. `fail_next` makes the next append fail as a database would.
"""

import asyncio
import json
import math
import re
from collections import Counter, deque
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from itertools import chain, islice
from typing import Any
from uuid import UUID

from cells.domain.sagas.leg import LegBarrier, LegMark, LegResult, UsedReference
from cells.domain.sagas.saga import Saga
from cells.domain.values import Direction, Kind, Ref
from cells.encoding import codec
from cells.moves.marks import Mark, link, mark_of
from cells.moves.user_bundle import HistoryCopy, MovedEvent, MovedPlace, require_no_gap
from cells.store.outcomes import OutcomePlace, in_progress, outcome_place
from cells.store.ports import (
    EVERYTHING,
    POSITION_MAX,
    Batch,
    CommitUnknown,
    EventFilter,
    EventRow,
    Fenced,
    Head,
    OutcomeRow,
    Poisoned,
    ProjectionRow,
    SagaFilter,
    SagaPlace,
    StoreUnavailable,
    Timer,
    Versioned,
)
from cells.store.rows import TABLES
from tests.doubles.saga_filter import lets

UNIQUE_VIOLATION = "23505"
CHECK_VIOLATION = "23514"
# SQLSTATE for a value that the client library cannot send, and for a sum that the server cannot.
CANNOT_BE_ENCODED = "22000"
OUT_OF_RANGE = "22003"
NUL_IN_TEXT = "22021"
NUL_IN_JSON = "22P05"
BIGINT_MAX = 2**63 - 1
# A NUL in JSON text: its escape, not preceded by an escaped backslash.
_NUL_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
# Amounts that must not be negative, by kind of aggregate.
_AMOUNTS: dict[Kind, Callable[[Any], Iterator[str]]] = {
    Kind.ACCOUNT: lambda state: chain(
        *(balance.values() for balance in state["balances"].values()),
        (hold["amount_minor"] for hold in state["holds"].values()),
    ),
    Kind.AUCTION: lambda state: iter((state["escrow_minor"],)),
}


class Fault(StrEnum):
    """Ways in which a database fails an append."""

    UNAVAILABLE = "nothing was written"
    COMMITTED = "the connection was lost in COMMIT, which happened"
    NOT_COMMITTED = "the connection was lost in COMMIT, which did not happen"


class MemoryStore:
    def __init__(self, cell: str) -> None:
        self._cell = cell
        self._epoch = self._position = self._bound_ms = self._beat = 0
        self.log: list[EventRow] = []
        self.projections: dict[Ref, ProjectionRow] = {}
        self.house: dict[tuple[str, str], int] = {}
        # By id and sender.
        self.kept_outcomes: dict[UUID, dict[str, OutcomeRow]] = {}
        # By constraint: rows by their columns in it.
        self._unique: dict[str, dict[tuple[object, ...], Any]] = {name: {} for table in TABLES for name in table.unique}
        # By user: events of earlier homes.
        self.moved: dict[UUID, dict[MovedPlace, MovedEvent]] = {}
        # By mark: copied events.
        self._marks: dict[Mark, EventRow] = {}
        # By user: the loop time of the last delivery for a move that has not arrived.
        self.incoming: dict[UUID, float] = {}
        self._faults: deque[Fault] = deque()
        self.appends = 0
        # Cleared while a test delays commits; beats still pass.
        self.gate = asyncio.Event()
        self.gate.set()

    def fail_next(self, *faults: Fault) -> None:
        """The next appends that carry more than a beat fail, in this order."""
        self._faults.extend(faults)

    async def prepare(self) -> None:
        """Nothing to do: the head exists."""

    async def head(self) -> Head:
        return Head(
            cell=self._cell,
            epoch=self._epoch,
            position=self._position,
            hlc_bound_ms=self._bound_ms,
            beat=self._beat,
            vector_clock=json.loads(self.log[-1].vector_clock) if self.log else {},
        )

    async def claim(self, *, expected_epoch: int | None = None) -> Head:
        if expected_epoch is not None and expected_epoch != self._epoch:
            raise Fenced(f"another process has raised the epoch beyond {expected_epoch}")
        self._epoch += 1
        self._beat += 1
        return await self.head()

    async def append(self, batch: Batch) -> None:
        fault = None
        if batch.events or batch.outcomes:
            await self.gate.wait()
            fault = self._faults.popleft() if self._faults else None
        if fault is Fault.UNAVAILABLE:
            raise StoreUnavailable(fault)
        if (batch.epoch, batch.position_before) != (self._epoch, self._position):
            raise Fenced(f"the head is not at epoch {batch.epoch}, position {batch.position_before} any more")
        self._check(batch)
        if fault is Fault.NOT_COMMITTED:
            raise CommitUnknown(fault)
        self._write(batch)
        if fault is Fault.COMMITTED:
            raise CommitUnknown(fault)

    def _check(self, batch: Batch) -> None:
        """The types and constraints of PostgreSQL; nothing is written unless all of them hold."""
        _check_texts(batch)
        for key, change in batch.house_changes.items():
            if abs(self.house.get(key, 0) + change) > BIGINT_MAX:
                raise Poisoned(OUT_OF_RANGE, "bigint out of range")
        for entry in batch.account_entries:
            if max(map(abs, entry[3:])) > BIGINT_MAX:
                raise Poisoned(CANNOT_BE_ENCODED, "value out of int64 range")
            if min(entry[6:]) < 0:
                raise Poisoned(CHECK_VIOLATION, "account_entries_no_bucket_below_zero")
        for row in batch.projections:
            amounts = _AMOUNTS.get(row.kind)
            if amounts and any(amount.startswith("-") for amount in amounts(json.loads(row.state))):
                raise Poisoned(CHECK_VIOLATION, f"{row.kind}s_below_zero")
        self._check_keys(batch)

    def _check_keys(self, batch: Batch) -> None:
        for constraint, rows in _by_constraint(batch):
            _all_new([key for key, _ in rows], self._unique[constraint], constraint)
        known = {_outcome_key(row) for row in self._outcomes([row.command_id for row in batch.outcomes])}
        _all_new([_outcome_key(row) for row in batch.outcomes], known, "command_outcomes_pkey")

    def _outcomes(self, command_ids: Iterable[UUID]) -> list[OutcomeRow]:
        return [row for each in command_ids for row in self.kept_outcomes.get(each, {}).values()]

    def _write(self, batch: Batch) -> None:
        self.appends += 1
        self._position = batch.position_after
        self._bound_ms = batch.hlc_bound_ms if batch.stepping_down else max(self._bound_ms, batch.hlc_bound_ms)
        self._beat = 0 if batch.stepping_down else self._beat + 1
        self.log.extend(batch.events)
        for constraint, rows in _by_constraint(batch):
            self._unique[constraint].update(rows)
        self.projections |= {Ref(row.kind, row.aggregate_id): row for row in batch.projections}
        for row in batch.outcomes:
            self._keep(row)
        self._keep_brought(batch.brought_outcomes)
        for ended in batch.ended_outcomes:
            for begun in self._outcomes([ended.command_id]):
                if in_progress(begun) and begun.saga_id in {None, ended.saga_id}:
                    self._keep(
                        begun._replace(
                            outcome=ended.outcome,
                            position=ended.position,
                            hlc_physical=ended.hlc_physical,
                            hlc_logical=ended.hlc_logical,
                        )
                    )
        for key, change in batch.house_changes.items():
            self.house[key] = self.house.get(key, 0) + change

    def _keep(self, row: OutcomeRow) -> None:
        self.kept_outcomes.setdefault(row.command_id, {})[row.principal] = row

    def _keep_brought(self, rows: Iterable[OutcomeRow]) -> None:
        for row in rows:
            if row.principal not in self.kept_outcomes.get(row.command_id, {}):
                self._keep(row)

    async def load(self, refs: Sequence[Ref]) -> dict[Ref, Versioned]:
        found = {ref: self._state(ref) for ref in refs}
        return {ref: entry for ref, entry in found.items() if entry is not None}

    def _state(self, ref: Ref) -> Versioned | None:
        if ref.kind is Kind.LEG:
            action, compensation = (self._mark(ref.id, direction) for direction in Direction)
            known = action is not None or compensation is not None
            return Versioned(LegBarrier(action=action, compensation=compensation), 0) if known else None
        if ref.kind is Kind.REFERENCE:
            used = self._unique["external_references_pkey"].get((ref.id,)) or self._marks.get(Mark("reference", ref.id))
            return Versioned(UsedReference(position=used.position), 0) if used else None
        row = self.projections.get(ref)
        return Versioned(codec.decode_state(ref.kind, row.state), row.stream_version) if row else None

    def _mark(self, leg_id: UUID, direction: Direction) -> LegMark | None:
        row = self._unique["saga_legs_pkey"].get((leg_id, direction.value))
        if row is not None:
            return LegMark(LegResult(row.result), row.event_id)
        copied = self._marks.get(Mark(direction.value, leg_id))
        result = LegResult.APPLIED if direction is Direction.ACTION else LegResult.UNDONE
        return LegMark(result, copied.event_id) if copied is not None else None

    async def outcomes(self, command_ids: Sequence[UUID]) -> list[OutcomeRow]:
        return self._outcomes(command_ids)

    async def events(
        self,
        *,
        from_position: int,
        until_position: int = POSITION_MAX,
        limit: int,
        event_filter: EventFilter = EVERYTHING,
    ) -> list[EventRow]:
        rows = (row for row in self.log[max(from_position, 1) - 1 : until_position] if event_filter.lets(row))
        return [row for row, _ in zip(rows, range(limit), strict=False)]

    async def list_states(
        self, kind: Kind, *, states: Sequence[str], after: UUID | None, limit: int
    ) -> list[tuple[UUID, Versioned]]:
        rows = sorted(row for ref, row in self.projections.items() if ref.kind is kind)
        wanted = [
            row
            for row in rows
            if (after is None or row.aggregate_id > after) and (not states or json.loads(row.state)["state"] in states)
        ]
        return [
            (row.aggregate_id, Versioned(codec.decode_state(kind, row.state), row.stream_version))
            for row in wanted[:limit]
        ]

    async def list_sagas(
        self, wanted: SagaFilter, *, after: SagaPlace | None, limit: int
    ) -> list[tuple[UUID, Versioned]]:
        found = []
        for ref, row in self.projections.items():
            state = codec.decode_state(ref.kind, row.state) if ref.kind is Kind.SAGA else None
            if isinstance(state, Saga) and lets(wanted, ref.id, state):
                place = SagaPlace(state.started_ms, ref.id)
                if after is None or place > after:
                    found.append((place, Versioned(state, row.stream_version)))
        return [(place.saga_id, entry) for place, entry in sorted(found)[:limit]]

    async def timers(self) -> list[Timer]:
        found = []
        for ref, row in self.projections.items():
            state = json.loads(row.state)
            if ref.kind is Kind.AUCTION and state["state"] == "ACTIVE":
                found.append(Timer(state["end_time_ms"], Kind.AUCTION, ref.id, None))
            for hold_id, hold in state.get("holds", {}).items():
                if hold["expire_time_ms"] is not None:
                    found.append(Timer(hold["expire_time_ms"], Kind.ACCOUNT, ref.id, UUID(hold_id)))
        return found

    async def moved_events(self, user_id: UUID, *, after: MovedPlace | None = None, limit: int) -> list[MovedEvent]:
        found = sorted(self.moved.get(user_id, {}).items())
        return [event for place, event in found if after is None or place > after][:limit]

    async def held(self, user_id: UUID) -> dict[str, int]:
        found: dict[str, int] = {}
        for place, event in self.moved.get(user_id, {}).items():
            found[place.cell] = max(found.get(place.cell, 0), event.row.stream_version)
        return found

    async def copies(self, user_id: UUID) -> dict[str, HistoryCopy]:
        found: dict[str, HistoryCopy] = {}
        for _, (cell, row) in sorted(self.moved.get(user_id, {}).items()):
            events, chain, _ = found.get(cell, HistoryCopy(0, b""))
            found[cell] = HistoryCopy(events + 1, link(chain, row.leaf_hash))
        return found

    async def moved_stream(self, user_id: UUID, cell: str, *, after_version: int, limit: int) -> list[MovedEvent]:
        found = (event for place, event in sorted(self.moved.get(user_id, {}).items()) if place.cell == cell)
        return list(islice((event for event in found if event.row.stream_version > after_version), limit))

    async def stream(self, user_id: UUID, *, after_version: int, limit: int) -> list[EventRow]:
        own = (row for row in self.log if row.aggregate_id == user_id and row.stream_version > after_version)
        return list(islice(own, limit))

    def all_outcomes(self) -> list[OutcomeRow]:
        """By id and sender."""
        return sorted(self._outcomes(self.kept_outcomes), key=outcome_place)

    async def outcomes_of(
        self, user_id: UUID, *, after: OutcomePlace | None, limit: int, since: datetime | None = None
    ) -> list[OutcomeRow]:
        rows = [row for row in self.all_outcomes() if row.user_id == user_id and not row.in_stream]
        recent = [row for row in rows if since is None or row.recorded_at >= since]
        return [row for row in recent if after is None or outcome_place(row) > after][:limit]

    async def stage(self, user_id: UUID, events: Sequence[MovedEvent], outcomes: Sequence[OutcomeRow]) -> None:
        require_no_gap(user_id, await self.held(user_id), events)
        marks = {mark: event.row for event in reversed(events) if (mark := mark_of(event.row)).id is not None}
        self._marks = marks | self._marks
        await self.expect(user_id)
        moved = self.moved.setdefault(user_id, {})
        for event in events:
            moved.setdefault(MovedPlace(event.cell, event.row.position), event)
        self._keep_brought([row._replace(user_id=user_id, in_stream=False) for row in outcomes])

    async def expect(self, user_id: UUID) -> None:
        self.incoming[user_id] = asyncio.get_running_loop().time()

    async def settle(self, user_id: UUID) -> None:
        self.incoming.pop(user_id, None)

    async def give_up(self, user_id: UUID) -> None:
        if user_id in self.incoming:
            self.incoming[user_id] = -math.inf

    async def stale(self, *, idle_s: float, limit: int) -> list[UUID]:
        since_s = asyncio.get_running_loop().time() - idle_s
        return [user_id for user_id, touched_s in self.incoming.items() if touched_s < since_s][:limit]

    async def drop_staged(self, user_id: UUID, *, idle_s: float, at_most: int) -> bool:
        if user_id in await self.stale(idle_s=idle_s, limit=len(self.incoming)):
            counted = self.counted(user_id)
            moved = self.moved.get(user_id, {})
            for place in [place for place, event in moved.items() if event.row.stream_version > counted[place.cell]]:
                self._marks.pop(mark_of(moved.pop(place).row), None)
            if not counted:
                for rows in self.kept_outcomes.values():
                    for principal in [key for key, row in rows.items() if row.user_id == user_id and row.cell]:
                        del rows[principal]
            del self.incoming[user_id]
        return False

    def counted(self, user_id: UUID, to_position: int = POSITION_MAX) -> Counter[str]:
        """By cell: the number of events of earlier homes in the user's arrivals up to there."""
        counted: Counter[str] = Counter()
        for row in self.log[:to_position]:
            if row.aggregate_id == user_id and row.event_type == "ACCOUNT_ARRIVED":
                for home in codec.event_of(row).earlier_homes:  # type: ignore[union-attr]
                    counted[home.cell] = max(counted[home.cell], home.events)
        return counted

    async def close(self) -> None:
        """Has no connections."""


def _check_texts(batch: Batch) -> None:
    texts, contents = list(_texts(batch)), list(_jsons(batch))
    if any("\x00" in text for text in texts):
        raise Poisoned(NUL_IN_TEXT, "invalid byte sequence")
    # The pattern is slow: it looks only where there is something to find.
    if any("\\u0000" in content and _NUL_ESCAPE.search(content) for content in contents):
        raise Poisoned(NUL_IN_JSON, "unsupported Unicode escape sequence")
    try:
        "".join([*texts, *contents]).encode()
    except UnicodeEncodeError as error:
        raise Poisoned(CANNOT_BE_ENCODED, str(error)) from error


def _texts(batch: Batch) -> Iterable[str]:
    """Text columns whose content comes, at least in part, from outside."""
    return chain(
        (row.reference for row in batch.references),
        (account for account, _ in batch.house_changes),
    )


def _jsons(batch: Batch) -> Iterable[str]:
    return chain(
        *((row.payload, row.metadata, row.vector_clock) for row in batch.events),
        (row.outcome for row in chain(batch.outcomes, batch.ended_outcomes)),
        (row.state for row in batch.projections),
    )


def _by_constraint(batch: Batch) -> Iterator[tuple[str, list[tuple[tuple[object, ...], Any]]]]:
    """For each constraint the batch's rows, with their columns in it."""
    for table in TABLES:
        if rows := table.rows_in(batch):
            for constraint, columns in table.unique.items():
                yield constraint, [(tuple(getattr(row, name) for name in columns), row) for row in rows]


def _outcome_key(row: OutcomeRow) -> Hashable:
    return row.command_id, row.principal, row.recorded_at


def _all_new(keys: Sequence[Hashable], known: Container[Hashable], constraint: str) -> None:
    if len(set(keys)) < len(keys) or any(key in known for key in keys):
        raise Poisoned(UNIQUE_VIOLATION, f"duplicate key value violates unique constraint {constraint}")
