"""AuditService: traces, as requested and as answered, also between cells."""

import json
import re
from collections.abc import Sequence
from uuid import UUID

from cellbook.v1 import audit_pb2, event_pb2, types_pb2
from cells.audit.checks.checked import UNREADABLE
from cells.audit.history.trace import EVENTS_DEFAULT, EVENTS_MAX, Answer, Found, Node, RefusedHere, Role, Search, Trace
from cells.domain.time.hlc import Stamp
from cells.encoding.codec import canonical, from_microseconds, microseconds
from cells.store.ports import EventRow
from cells.uuids import uuid_from
from server.shell.calls.statuses import of_status, to_status
from server.shell.fields.bounds import (
    EVENT_MAX,
    IDS,
    items_in,
    number_in,
)
from server.wire.common import id_to_proto, parse_name, parse_uuid, stamp_to_proto
from server.wire.events import event_to_proto

_ROLES = {
    Role.SUBJECT: audit_pb2.TRACE_ROLE_SUBJECT,
    Role.CAUSE: audit_pb2.TRACE_ROLE_CAUSE,
    Role.EFFECT: audit_pb2.TRACE_ROLE_EFFECT,
}
_ROLES_IN = {value: role for role, value in _ROLES.items()}
_COLLECTION = re.compile(r"cells/[^/]*/(assets|auctions)/")


def parse_subject(text: str) -> UUID:
    named = _COLLECTION.match(text)
    return parse_name(text, "subject", named[1]).id if named else parse_uuid(text, "subject")


def parse_event_max(value: int) -> int:
    number_in(value, "event_max", EVENT_MAX)
    return min(value, EVENTS_MAX) or EVENTS_DEFAULT


def trace_to_proto(trace: Trace) -> audit_pb2.TraceResponse:
    return audit_pb2.TraceResponse(
        events=[_node_to_proto(node) for node in trace.nodes],
        missing=[audit_pb2.MissingCell(cell=cell, problem=said) for cell, said in sorted(trace.missing.items())],
        truncated=trace.truncated,
        cells=trace.cells,
        refused=map(_refused_to_proto, trace.refused),
    )


def _refused_to_proto(refused: RefusedHere) -> audit_pb2.RefusedCommand:
    return audit_pb2.RefusedCommand(
        cell=refused.cell,
        refusal=to_status(refused.refusal),
        hlc=stamp_to_proto(refused.stamp),
        principal=refused.principal,
    )


def _node_to_proto(node: Node) -> audit_pb2.TracedEvent:
    principal, command_id = _metadata_of(node.found.row)
    return audit_pb2.TracedEvent(
        event=audited_event_to_proto(node.found.row, node.found.cell),
        depth=node.depth,
        role=_ROLES[node.found.role],
        principal=principal,
        command_id=command_id,
        cause_missing=node.cause_missing,
        problem=node.found.problem,
    )


def _metadata_of(row: EventRow) -> tuple[str, str]:
    try:
        said = json.loads(row.metadata)
        return str(said["principal"]), str(said["command_id"])
    except UNREADABLE:
        return "", ""


def audited_event_to_proto(row: EventRow, cell: str) -> event_pb2.Event:
    """As `event_out`; of a row that was tampered with, the parts that can be shown."""
    try:
        return event_to_proto(row, cell)
    except UNREADABLE:
        return event_pb2.Event(
            cell=cell,
            position=row.position,
            event_id=str(row.event_id),
            event_type=row.event_type,
            aggregate_id=str(row.aggregate_id),
            stream_version=row.stream_version,
            causation_id=id_to_proto(row.causation_id),
            correlation_id=str(row.correlation_id),
            hlc=types_pb2.HlcStamp(physical_ms=row.hlc_physical, logical=max(row.hlc_logical, 0)),
            payload_json=row.payload,
            metadata_json=row.metadata,
            user_id=id_to_proto(row.user_id),
            recorded_at_us=microseconds(row.recorded_at),
            leaf_hash=row.leaf_hash,
        )


# --- between cells --------------------------------------------------------------------------------------------


def parse_search(request: audit_pb2.FindEventsRequest) -> Search:
    return Search(
        subject=parse_uuid(request.subject, "subject") if request.subject else None,
        causes=_parse_ids(request.causes, "causes"),
        effects_of=_parse_ids(request.effects_of, "effects_of"),
    )


def _parse_ids(texts: Sequence[str], field: str) -> frozenset[UUID]:
    items_in(texts, field, IDS)
    return frozenset(parse_uuid(text, field) for text in texts)


def search_to_proto(search: Search, event_max: int) -> audit_pb2.FindEventsRequest:
    return audit_pb2.FindEventsRequest(
        subject=id_to_proto(search.subject),
        causes=map(str, search.causes),
        effects_of=map(str, search.effects_of),
        event_max=event_max,
    )


def found_to_proto(answer: Answer) -> audit_pb2.FindEventsResponse:
    events = [
        audit_pb2.FoundEvent(
            event=audited_event_to_proto(found.row, found.cell), role=_ROLES[found.role], problem=found.problem
        )
        for found in answer.found
    ]
    refused = _refused_to_proto(answer.refused) if answer.refused is not None else None
    return audit_pb2.FindEventsResponse(events=events, truncated=answer.truncated, refused=refused)


def parse_found(reply: audit_pb2.FindEventsResponse, cell: str) -> Answer:
    """Raises ValueError for content that no cell sends."""
    found = [
        Found(cell, parse_event_row(each.event), _ROLES_IN.get(each.role, Role.EFFECT), each.problem)
        for each in reply.events
    ]
    return Answer(found, truncated=reply.truncated, refused=_parse_refused(reply, cell))


def _parse_refused(reply: audit_pb2.FindEventsResponse, cell: str) -> RefusedHere | None:
    if not reply.HasField("refused"):
        return None
    said = reply.refused
    refusal = of_status(said.refusal)
    if refusal is None:
        raise ValueError("it has refused the command in words that are not known here")
    return RefusedHere(cell, refusal, Stamp(said.hlc.physical_ms, said.hlc.logical), said.principal)


def parse_event_row(event: event_pb2.Event) -> EventRow:
    """The row that the event describes. Raises ValueError."""
    return EventRow(
        position=event.position,
        event_id=uuid_from(event.event_id),
        event_type=event.event_type,
        aggregate_id=uuid_from(event.aggregate_id),
        stream_version=event.stream_version,
        causation_id=uuid_from(event.causation_id) if event.causation_id else None,
        correlation_id=uuid_from(event.correlation_id),
        hlc_physical=event.hlc.physical_ms,
        hlc_logical=event.hlc.logical,
        vector_clock=canonical(dict(event.vector_clock)),
        payload=event.payload_json,
        metadata=event.metadata_json,
        user_id=uuid_from(event.user_id) if event.user_id else None,
        recorded_at=from_microseconds(event.recorded_at_us),
        leaf_hash=event.leaf_hash,
    )
