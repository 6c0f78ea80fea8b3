"""The order of a pass, its progress, and its findings: the row, its expected value, and its actual value."""

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import TypeAlias
from uuid import UUID

from cells.domain.audit.events import CorrectedBalance
from cells.domain.record import Struct, field
from cells.domain.values import Kind

# The length at which a shown state or row is cut.
SHOWN_MAX = 600
# Findings of a pass that are listed; beyond that, only their number is.
FINDINGS_MAX = 1_000


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


class Order(Struct, frozen=True, kw_only=True):
    """How to compare a cell's own tables with its log."""

    full: bool = False
    # Do a full pass also if the last one ended longer ago than this; 0: do not.
    full_every_s: int = 0
    # The maximum rate; 0: no limit.
    events_per_s: int = 0
    # The last signed size of the log, and the root of the tree over those events, in hexadecimal.
    signed_size: int = 0
    signed_root: str = ""
    # The key that seals the replay state between passes; empty: no seal.
    replay_key: bytes = b""
    # The epoch that must lead for rows to be repaired: rows that follow from single events, and need no writer.
    mend_epoch: int | None = None
    # Also repair rows of these aggregates, which have no events.
    strangers: tuple[UUID, ...] = ()


class Progress(Struct, frozen=True, kw_only=True):
    """The progress of a pass."""

    stage: str
    done: int
    total: int


Tell: TypeAlias = Callable[[Progress], None]


class Report(Struct, kw_only=True):
    """The result of one pass over a cell's own tables: the first findings, and their total number."""

    cell: str
    # The leader's epoch at the end, from the head row.
    epoch: int = 0
    # Events after the first position up to the second were replayed; tables were compared at the second.
    from_position: int = 0
    position: int = 0
    full: bool = False
    took_ms: int = 0
    findings_count: int = 0
    findings: list[Finding] = field(default_factory=list)
    states: list[WrongState] = field(default_factory=list)
    house: list[CorrectedBalance] = field(default_factory=list)
    # Rows derived from single events that are wrong, missing or surplus.
    rows_count: int = 0
    # The number of these, and of rows of aggregates that do not exist, that were repaired.
    mended_count: int = 0
    # Streams that were not read beyond an unreadable event.
    halted: list[UUID] = field(default_factory=list)
    # Rows of the log that are missing or changed: while there are any, nothing is rebuilt.
    damaged_count: int = 0

    @property
    def events_count(self) -> int:
        return self.position - self.from_position

    def add(self, findings: Iterable[Finding]) -> None:
        for each in findings:
            self.findings_count += 1
            if self.findings_count <= FINDINGS_MAX:
                self.findings.append(each)


NOTHING = "no row"


def shown(value: object) -> str:
    """The value as readable text of bounded length."""
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}... ({len(text):,} characters)"


def finding(check: Check, row: str, expected: object, found: object) -> Finding:
    """The finding with texts of bounded length."""
    return Finding(check=check, row=shown(row), expected=shown(expected), found=shown(found))


def row_text(names: Sequence[str], row: Sequence[object] | None) -> str:
    """The row with the names of its columns."""
    if row is None:
        return NOTHING
    return ", ".join(f"{name} {value}" for name, value in zip(names, row, strict=True))
