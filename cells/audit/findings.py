"""What an audit finds wrong: which row, what it must be, and what it is."""

from collections.abc import Sequence
from enum import StrEnum
from uuid import UUID

from cells.domain.record import Struct
from cells.domain.values import Kind

# Of a state or a row that is shown: more would bury the rest.
SHOWN_MAX = 600


class Check(StrEnum):
    """What is compared with what."""

    # An event that cannot be read, or does not go on from the one before: its stream is not read further.
    EVENT = "event"
    # The postings of an event against what it says of itself, and their sum.
    POSTINGS = "postings"
    # The present state of an aggregate against a replay of its stream.
    PROJECTION = "projection"
    HOUSE = "house balance"
    # A state or a sum of the past, kept so that questions about it read less.
    SNAPSHOT = "snapshot"
    ACCOUNT_ENTRY = "account entry"
    CLEARING_ENTRY = "clearing entry"
    BARRIER = "barrier"
    REFERENCE = "external reference"
    # What a saga says of its legs against what this cell has done for it.
    SAGA = "saga"
    OUTCOME = "command outcome"
    # The states that a pass goes on from, against the seal that the last one has left.
    REPLAY = "replay"
    # Movements between two cells, leg by leg.
    CLEARING = "clearing"
    # What must hold, asked in SQL of the tables alone: cells/sql/books.sql.
    BOOKS = "books"
    # Tables, triggers, functions and rights against what the migrations make.
    SCHEMA = "schema"
    # What a user has brought along from an earlier home against the log of that cell.
    COPY = "copy of an event"


class Finding(Struct, frozen=True, kw_only=True):
    """A mismatch. `row` names it: a table and a key, an event's position, a movement and a peer."""

    check: Check
    row: str
    expected: str
    found: str


class WrongState(Struct, frozen=True, kw_only=True):
    """An aggregate whose row is not what a replay gives. `stream_version` 0: there is no such aggregate."""

    kind: Kind
    id: UUID
    stream_version: int
    found: str


class WrongHouse(Struct, frozen=True, kw_only=True):
    account: str
    currency: str
    expected_minor: int
    found_minor: int


class Report(Struct, frozen=True, kw_only=True):
    """What one pass over a cell's own tables has come to. Of findings the first are given, and how many there are."""

    cell: str
    # Who led when it ended, by the head row.
    epoch: int
    # Events after the first position, up to the second, were replayed; tables were compared as at the second.
    from_position: int
    position: int
    full: bool
    took_ms: int
    findings_count: int
    findings: tuple[Finding, ...]
    states: tuple[WrongState, ...]
    house: tuple[WrongHouse, ...]
    # Rows that follow from single events, and are wrong, missing or too many.
    rows_count: int
    # Of these, and of rows of aggregates that do not exist: how many were put right.
    mended_count: int
    # Streams that are read no further than an event that cannot be read.
    halted: tuple[UUID, ...]
    # Rows of the log that are missing or not as they were written: while there are any, nothing is rebuilt.
    damaged_count: int = 0

    @property
    def events_count(self) -> int:
        return self.position - self.from_position


class Progress(Struct, frozen=True, kw_only=True):
    """How far a pass has come."""

    stage: str
    done: int
    total: int


NOTHING = "no row"


def shown(value: object) -> str:
    """For people, and of bounded length."""
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}... ({len(text):,} characters)"


def row_text(names: Sequence[str], row: Sequence[object] | None) -> str:
    """A row with the names of its columns."""
    if row is None:
        return NOTHING
    return shown(", ".join(f"{name} {value}" for name, value in zip(names, row, strict=True)))
