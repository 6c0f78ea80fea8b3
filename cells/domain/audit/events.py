"""Events that an audit of a cell's own tables records. None of them moves money or changes an aggregate."""

from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import UUID

from cells.domain.event import Event
from cells.domain.record import Struct
from cells.domain.values import Kind


class AuditEvent(Event, frozen=True, kw_only=True):
    """Each has a stream of its own, with one event."""

    kind = Kind.AUDIT


class Mismatch(Struct, frozen=True, kw_only=True):
    """A row that is not as it must be. The texts are for people."""

    check: str
    row: str
    expected: str
    found: str


class ReconciliationFailed(AuditEvent, frozen=True, kw_only=True):
    """The compared rows follow from events after `from_log_position`, up to `log_position`. The first findings."""

    full: bool
    from_log_position: int
    log_position: int
    findings_count: int
    findings: tuple[Mismatch, ...]


class RebuiltState(Struct, frozen=True, kw_only=True):
    """An aggregate whose row was replaced by the replay of its stream."""

    kind: str
    aggregate_id: UUID
    stream_version: int


class CorrectedBalance(Struct, frozen=True, kw_only=True):
    """A house account whose row was corrected to the sum of its postings."""

    account: str
    currency: str
    expected_minor: int
    found_minor: int


class ProjectionsRebuilt(AuditEvent, frozen=True, kw_only=True):
    """In the same commit as the states and balances; their owner repaired `rows_count` other rows just before."""

    states: tuple[RebuiltState, ...]
    house: tuple[CorrectedBalance, ...]
    rows_count: int
    note: str


class Access(Struct, frozen=True, kw_only=True):
    """A principal has called a method of that name, once or more, in the minute that began then.

    `subject` is the id of an account or stream, or the position of an event; empty: of all; "*": more than are listed.
    With a `reason` it is one call, and was recorded before its answer.
    """

    principal: str
    method: str
    subject: str
    minute_ms: int
    reason: str = ""
    ADDED: ClassVar[Mapping[str, Any]] = {"reason": ""}


class AccessesRecorded(AuditEvent, frozen=True, kw_only=True):
    """Staff has read data of others."""

    accesses: tuple[Access, ...]


AuditEvents = ReconciliationFailed | ProjectionsRebuilt | AccessesRecorded
