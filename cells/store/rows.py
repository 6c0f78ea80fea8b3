"""The rows of the store: which table each part of a batch is written to, and the values that rows are read as."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg

from cells.domain.sagas.leg import LegBarrier, LegMark, LegResult, Unreadable, UsedReference
from cells.domain.values import Direction, Kind, Ref
from cells.encoding import codec
from cells.store.ports import (
    AccountEntryRow,
    Batch,
    ClearingEntryRow,
    EventRow,
    Head,
    LegRow,
    ReferenceRow,
    StoreUnavailable,
    Versioned,
)

if TYPE_CHECKING:
    from uuid import UUID


class Table(NamedTuple):
    """A table that only grows, by a part of each batch."""

    name: str
    part: str
    row: type[Any]
    # The columns of each constraint.
    unique: dict[str, tuple[str, ...]]

    def rows_in(self, batch: Batch) -> list[Any]:
        rows: list[Any] = getattr(batch, self.part)
        return rows


TABLES = (
    Table(
        "event_store",
        "events",
        EventRow,
        {"event_store_pkey": ("event_id",), "event_store_stream": ("aggregate_id", "stream_version")},
    ),
    Table(
        "account_entries",
        "account_entries",
        AccountEntryRow,
        {"account_entries_pkey": ("account_id", "currency", "position")},
    ),
    Table(
        "clearing_entries",
        "clearing_entries",
        ClearingEntryRow,
        {"clearing_entries_pkey": ("clearing_id", "position")},
    ),
    Table("saga_legs", "legs", LegRow, {"saga_legs_pkey": ("leg_id", "direction")}),
    Table("external_references", "references", ReferenceRow, {"external_references_pkey": ("reference_id",)}),
)


def head_of(row: asyncpg.Record | None) -> Head:
    if row is None:
        raise StoreUnavailable("the head row is missing: the database is not prepared")
    return Head(
        cell=row["cell"],
        epoch=row["epoch"],
        position=row["position"],
        hlc_bound_ms=row["hlc_bound_ms"],
        beat=row["beat"],
        vector_clock=json.loads(row["vector_clock"]) if row["vector_clock"] else {},
    )


def versioned(kind: Kind, row: asyncpg.Record) -> Versioned:
    """One row that cannot be read must not keep the others from being read."""
    try:
        return Versioned(codec.decode_state(kind, row["state"]), row["stream_version"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return Versioned(Unreadable(f"{type(error).__name__}: {error}"), row["stream_version"])


def states_of(kind: Kind, rows: Sequence[asyncpg.Record]) -> dict[Ref, Versioned]:
    """The loaded states of one kind."""
    return _LOADED[kind](rows) if kind in _LOADED else _aggregates(kind, rows)


def _aggregates(kind: Kind, rows: Sequence[asyncpg.Record]) -> dict[Ref, Versioned]:
    return {Ref(kind, row["id"]): versioned(kind, row) for row in rows}


def _legs(rows: Sequence[asyncpg.Record]) -> dict[Ref, Versioned]:
    marks: dict[UUID, dict[str, LegMark]] = {}
    for row in rows:
        mark = LegMark(LegResult(row["result"]), row["event_id"])
        marks.setdefault(row["leg_id"], {})[row["direction"]] = mark
    return {
        Ref(Kind.LEG, leg_id): Versioned(
            LegBarrier(
                action=of_leg.get(Direction.ACTION.value),
                compensation=of_leg.get(Direction.COMPENSATION.value),
            ),
            0,
        )
        for leg_id, of_leg in marks.items()
    }


def _references(rows: Sequence[asyncpg.Record]) -> dict[Ref, Versioned]:
    return {
        Ref(Kind.REFERENCE, row["reference_id"]): Versioned(UsedReference(position=row["position"]), 0) for row in rows
    }


_LOADED: dict[Kind, Callable[[Sequence[asyncpg.Record]], dict[Ref, Versioned]]] = {
    Kind.LEG: _legs,
    Kind.REFERENCE: _references,
}


def event_of(columns: Iterable[Any]) -> EventRow:
    """JSON comes in PostgreSQL's own order; the hash covers the canonical form."""
    row = EventRow(*columns)
    return row._replace(
        vector_clock=codec.recanonical(row.vector_clock),
        payload=codec.recanonical(row.payload),
        metadata=codec.recanonical(row.metadata),
    )
