"""AuditService: traces, as requested and as answered, also between cells."""

import re
from collections.abc import Mapping, Sequence
from uuid import UUID

from cellbook.v1 import audit_pb2 as pb
from cellbook.v1 import event_pb2
from cells.audit.history.trace import EVENTS_DEFAULT, EVENTS_MAX, Answer, Found, Node, RefusedHere, Role, Trace
from cells.domain.refusals import FieldInvalid
from cells.domain.time.hlc import Stamp
from cells.domain.values import reference_ref
from cells.encoding.codec import canonical
from cells.store.ports import EventRow
from server.shell.calls.statuses import of_status, to_status
from server.shell.fields.bounds import EVENT_MAX, REFERENCE, invalid, number_in, text_in
from server.shell.fields.parse import parse_uuid
from server.wire.convert import members, parse_reply, to_proto
from server.wire.events import audited_event_to_proto
from server.wire.fields import parse_name
from server.wire.history import command_in

_ROLES = members(pb.TraceRole.DESCRIPTOR, Role)
_COLLECTION = re.compile(r"cells/[^/]*/(assets|auctions)/")
# The first part of a subject that is an external reference, and the kind of command that gave it.
REFERENCED = {"deposits": "deposit", "withdrawals": "withdrawal"}


def parse_subject(text: str) -> UUID:
    collection, _, reference = text.partition("/")
    if collection in REFERENCED:
        return reference_ref(REFERENCED[collection], text_in(reference, "subject", REFERENCE)).id
    if named := _COLLECTION.match(text):
        return parse_name(text, "subject", named[1]).id
    try:
        return parse_uuid(text, "subject")
    except FieldInvalid:
        problem = "is no UUID, no 'cells/{cell}/auctions/{uuid}' and no 'deposits/{reference}'"
        raise invalid("subject", problem, text) from None


def parse_event_max(value: int) -> int:
    number_in(value, "event_max", EVENT_MAX)
    return min(value, EVENTS_MAX) or EVENTS_DEFAULT


def trace_to_proto(trace: Trace) -> pb.TraceResponse:
    return to_proto(
        pb.TraceResponse,
        trace,
        events=map(_node_to_proto, trace.nodes),
        missing=missing_to_proto(trace.missing),
        refused=map(_refused_to_proto, trace.refused),
    )


def missing_to_proto(missing: Mapping[str, str]) -> Sequence[pb.MissingCell]:
    return [pb.MissingCell(cell=cell, problem=problem) for cell, problem in sorted(missing.items())]


def _refused_to_proto(refused: RefusedHere) -> pb.RefusedCommand:
    return to_proto(pb.RefusedCommand, refused, refusal=to_status(refused.refusal), hlc=refused.stamp)


def _node_to_proto(node: Node) -> pb.TracedEvent:
    found, (principal, command_id) = node.found, command_in(node.found.row.metadata)
    return to_proto(
        pb.TracedEvent,
        node,
        event=audited_event_to_proto(found.row, found.cell),
        role=found.role,
        principal=principal,
        command_id=command_id,
        problem=found.problem,
    )


# --- between cells --------------------------------------------------------------------------------------------


def found_to_proto(answer: Answer) -> pb.FindEventsResponse:
    return to_proto(
        pb.FindEventsResponse,
        answer,
        events=[
            to_proto(pb.FoundEvent, found, event=audited_event_to_proto(found.row, found.cell))
            for found in answer.found
        ],
        refused=_refused_to_proto(answer.refused) if answer.refused is not None else None,
    )


def parse_found(reply: pb.FindEventsResponse, cell: str) -> Answer:
    """Raises ValueError for content that no cell sends."""
    found = [
        Found(cell, parse_event_row(each.event), _ROLES.get(each.role, Role.EFFECT), each.problem)
        for each in reply.events
    ]
    return Answer(found, truncated=reply.truncated, refused=_parse_refused(reply, cell))


def _parse_refused(reply: pb.FindEventsResponse, cell: str) -> RefusedHere | None:
    if not reply.HasField("refused"):
        return None
    refusal = of_status(reply.refused.refusal)
    if refusal is None:
        raise ValueError("it has refused the command in words that are not known here")
    stamp = parse_reply(Stamp, reply.refused.hlc)
    return parse_reply(RefusedHere, reply.refused, cell=cell, refusal=refusal, stamp=stamp)


def parse_event_row(event: event_pb2.Event) -> EventRow:
    """The row that the event describes. Raises ValueError."""
    return parse_reply(EventRow, event, vector_clock=canonical(dict(event.vector_clock)))
