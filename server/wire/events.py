"""EventService: the cell's log, row by row."""

import json
from collections.abc import Iterable, Mapping, Sequence

from cellbook.v1 import event_pb2 as pb
from cells.audit.checks.checked import UNREADABLE
from cells.domain.audit.refusals import EventDamaged
from cells.domain.events import EVENT_TYPES
from cells.domain.time.hlc import Stamp
from cells.domain.values import Posting
from cells.encoding.codec import postings_of
from cells.requests import CaughtUp, Progress
from cells.store.ports import EventFilter, EventRow
from server.shell.fields.bounds import EVENT_TYPES_ASKED, invalid, items_in
from server.wire.convert import parse, to_proto
from server.wire.pages import Tokens

VERSION_BYTES = 8


def parse_filter(message: pb.EventFilter) -> EventFilter:
    items_in(message.event_types, "filter.event_types", EVENT_TYPES_ASKED)
    for event_type in message.event_types:
        # A stream with a misspelled type would wait forever.
        if event_type not in EVENT_TYPES:
            raise invalid("filter.event_types", "is not an event type known here", event_type)
    return parse(EventFilter, message, "filter", event_types=tuple(dict.fromkeys(message.event_types)))


def item_to_proto(item: EventRow | CaughtUp | Progress, cell: str) -> pb.SubscribeResponse:
    if isinstance(item, Progress):
        return pb.SubscribeResponse(progress=pb.Progress(position=item.position))
    if isinstance(item, CaughtUp):
        return pb.SubscribeResponse(caught_up=pb.CaughtUp(position=item.position))
    try:
        return pb.SubscribeResponse(event=event_to_proto(item, cell))
    except UNREADABLE as error:
        problem = f"its payload cannot be read: {error!r}"
        raise EventDamaged(event_id=str(item.event_id), position=item.position, cell=cell, problem=problem) from error


def _read_version(content: bytes) -> int:
    if len(content) != VERSION_BYTES:
        raise ValueError(content)
    return int.from_bytes(content)


# The version below which the next page begins.
VERSIONS = Tokens[int](read=_read_version, write=lambda version: version.to_bytes(VERSION_BYTES))


def user_events_to_proto(rows: Sequence[EventRow], first: int, cell: str) -> pb.ListUserEventsResponse:
    """`first` is the lowest version on the page."""
    token = VERSIONS.token(first if first > 1 else None)
    return pb.ListUserEventsResponse(events=[event_to_proto(row, cell) for row in rows], next_page_token=token)


def event_to_proto(row: EventRow, cell: str) -> pb.Event:
    """Raises one of UNREADABLE for a row that was tampered with."""
    return _event(row, cell, row.hlc_logical, json.loads(row.vector_clock), postings_of(row))


def audited_event_to_proto(row: EventRow, cell: str) -> pb.Event:
    """As `event_to_proto`; of a row that was tampered with, the parts that can be shown."""
    try:
        return event_to_proto(row, cell)
    except UNREADABLE:
        return _event(row, cell, max(row.hlc_logical, 0), {}, ())


def _event(
    row: EventRow, cell: str, logical: int, vector_clock: Mapping[str, int], postings: Iterable[Posting]
) -> pb.Event:
    hlc = Stamp(row.hlc_physical, logical)
    return to_proto(pb.Event, row, cell=cell, hlc=hlc, vector_clock=vector_clock, postings=postings)
