"""The findings of an audit: the row, its expected value, and its actual value."""

from collections.abc import Sequence
from enum import StrEnum
from uuid import UUID

from cells.domain.record import Struct
from cells.domain.values import Kind

# The length at which a shown state or row is cut.
SHOWN_MAX = 600


class Check(StrEnum):
    """The kinds of comparison."""

    # An event that cannot be read, or does not follow from the one before: its stream is read no further.
    EVENT = "event"
    # The postings of an event against its payload, and their sum.
    POSTINGS = "postings"
    # The present state of an aggregate against a replay of its stream.
    PROJECTION = "projection"
    HOUSE = "house balance"
    # A stored past state or sum, which saves reading events.
    SNAPSHOT = "snapshot"
    ACCOUNT_ENTRY = "account entry"
    CLEARING_ENTRY = "clearing entry"
    BARRIER = "barrier"
    REFERENCE = "external reference"
    # A saga's record of its legs against this cell's record of them.
    SAGA = "saga"
    OUTCOME = "command outcome"
    # The states that a pass resumes from against the seal that the last pass left.
    REPLAY = "replay"
    # Movements between two cells, leg by leg.
    CLEARING = "clearing"
    # Invariants of the tables alone, in SQL: cells/sql/books.sql.
    BOOKS = "books"
    # Tables, triggers, functions and rights against the migrations.
    SCHEMA = "schema"
    # Events that a user brought from an earlier home against the log of that cell.
    COPY = "copy of an event"


class Finding(Struct, frozen=True, kw_only=True):
    """A mismatch. `row` names its place: a table and a key, an event's position, or a movement and a peer."""

    check: Check
    row: str
    expected: str
    found: str


class WrongState(Struct, frozen=True, kw_only=True):
    """An aggregate whose row differs from the replay. `stream_version` 0: there is no such aggregate."""

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
    """The result of one pass over a cell's own tables: the first findings, and their total number."""

    cell: str
    # The leader's epoch at the end, from the head row.
    epoch: int
    # Events after the first position up to the second were replayed; tables were compared at the second.
    from_position: int
    position: int
    full: bool
    took_ms: int
    findings_count: int
    findings: tuple[Finding, ...]
    states: tuple[WrongState, ...]
    house: tuple[WrongHouse, ...]
    # Rows derived from single events that are wrong, missing or surplus.
    rows_count: int
    # The number of these, and of rows of aggregates that do not exist, that were repaired.
    mended_count: int
    # Streams that were not read beyond an unreadable event.
    halted: tuple[UUID, ...]
    # Rows of the log that are missing or changed: while there are any, nothing is rebuilt.
    damaged_count: int = 0

    @property
    def events_count(self) -> int:
        return self.position - self.from_position


class Progress(Struct, frozen=True, kw_only=True):
    """The progress of a pass."""

    stage: str
    done: int
    total: int


NOTHING = "no row"


def shown(value: object) -> str:
    """The value as readable text of bounded length."""
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}... ({len(text):,} characters)"


def row_text(names: Sequence[str], row: Sequence[object] | None) -> str:
    """The row with the names of its columns."""
    if row is None:
        return NOTHING
    return shown(", ".join(f"{name} {value}" for name, value in zip(names, row, strict=True)))
