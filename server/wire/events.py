"""EventService: the cell's log, row by row."""

import json

from cellbook.v1 import event_pb2, types_pb2
from cells.audit.checks.checked import UNREADABLE
from cells.domain.audit.refusals import EventDamaged
from cells.domain.events import EVENT_TYPES
from cells.encoding.codec import microseconds, postings_of
from cells.requests import CaughtUp, Progress
from cells.store.ports import EventFilter, EventRow
from server.shell.fields.bounds import (
    EVENT_TYPES_ASKED,
    POSITION_OR_NONE,
    invalid,
    items_in,
    number_in,
)
from server.wire.common import id_to_proto, parse_optional_uuid


def parse_from_position(request: event_pb2.SubscribeRequest) -> int:
    return number_in(request.from_position, "from_position", POSITION_OR_NONE)


def parse_filter(message: event_pb2.EventFilter) -> EventFilter:
    items_in(message.event_types, "filter.event_types", EVENT_TYPES_ASKED)
    return EventFilter(
        event_types=tuple({_parse_event_type(event_type): None for event_type in message.event_types}),
        aggregate_id=parse_optional_uuid(message.aggregate_id, "filter.aggregate_id"),
        correlation_id=parse_optional_uuid(message.correlation_id, "filter.correlation_id"),
        user_id=parse_optional_uuid(message.user_id, "filter.user_id"),
    )


def _parse_event_type(event_type: str) -> str:
    # A stream with a misspelled type would wait forever.
    if event_type not in EVENT_TYPES:
        raise invalid("filter.event_types", "is not an event type known here", event_type)
    return event_type


def item_to_proto(item: EventRow | CaughtUp | Progress, cell: str) -> event_pb2.SubscribeResponse:
    if isinstance(item, Progress):
        return event_pb2.SubscribeResponse(progress=event_pb2.Progress(position=item.position))
    if isinstance(item, CaughtUp):
        return event_pb2.SubscribeResponse(caught_up=event_pb2.CaughtUp(position=item.position))
    try:
        return event_pb2.SubscribeResponse(event=event_to_proto(item, cell))
    except UNREADABLE as error:
        problem = f"its payload cannot be read: {error!r}"
        raise EventDamaged(event_id=str(item.event_id), position=item.position, cell=cell, problem=problem) from error


def event_to_proto(row: EventRow, cell: str) -> event_pb2.Event:
    return event_pb2.Event(
        cell=cell,
        position=row.position,
        event_id=str(row.event_id),
        event_type=row.event_type,
        aggregate_id=str(row.aggregate_id),
        stream_version=row.stream_version,
        causation_id=id_to_proto(row.causation_id),
        correlation_id=str(row.correlation_id),
        hlc=types_pb2.HlcStamp(physical_ms=row.hlc_physical, logical=row.hlc_logical),
        vector_clock=json.loads(row.vector_clock),
        payload_json=row.payload,
        metadata_json=row.metadata,
        user_id=id_to_proto(row.user_id),
        recorded_at_us=microseconds(row.recorded_at),
        postings=[types_pb2.Posting(**line._asdict()) for line in postings_of(row)],
        leaf_hash=row.leaf_hash,
    )
