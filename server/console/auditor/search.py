"""One box for any id, name or external reference: says what it is and in which cells, and leads there."""

import re
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from cellbook.v1 import audit_pb2, event_pb2
from cells.domain.events import EVENT_TYPES
from cells.domain.refusals import FieldInvalid
from cells.domain.values import Kind
from server.cli.reach import Reach
from server.console.console import ledger_of, render
from server.console.pages import get
from server.console.serving import BadInput, field, see
from server.wire.trace import REFERENCED, parse_subject

QUERY_CHARS_MAX = 240
# Enough to see what an id is: its trace has the rest.
EVENTS_MAX = 50
_NAME = re.compile(r"cells/[^/]+/(?:assets|auctions)/[^/]+")
_PLACE = re.compile(r"([a-z0-9-]{1,32})/([1-9][0-9]{0,17})")


@dataclass(frozen=True, slots=True)
class Found:
    what: str
    cell: str
    path: str


@dataclass(frozen=True, slots=True)
class Answer:
    found: Sequence[Found]
    # Cell -> why it did not answer.
    silent: dict[str, str]
    cells: Sequence[str]

    @property
    def only_path(self) -> str:
        """The page of what was found, if it can be nothing else."""
        paths = {each.path for each in self.found}
        return paths.pop() if len(paths) == 1 and not self.silent else ""


@get("/auditor", "AuditService.Trace", title="Search")
async def search(request: Request) -> Response:
    query = await field(request, "q")
    if not query:
        return render(request, "auditor/search.html", query="", answer=None)
    if len(query) > QUERY_CHARS_MAX:
        raise BadInput(f"expected an id, a name or a reference of at most {QUERY_CHARS_MAX} characters")
    reach = await ledger_of(request).reach()
    if (place := _PLACE.fullmatch(query)) is not None and place[1] in reach.listed:
        return see(event_path(await event_at(reach, place[1], int(place[2]))))
    answer = await find(reach, query)
    return (
        see(answer.only_path)
        if answer.only_path
        else render(request, "auditor/search.html", query=query, answer=answer)
    )


async def find(reach: Reach, query: str) -> Answer:
    """Asks each cell for what it has itself. Raises BadInput, CallDenied, LedgerRefusal."""
    found, silent = dict[Found, None](), dict[str, str]()
    for subject in _subjects(query):
        request = audit_pb2.FindEventsRequest(subject=subject.id, event_max=EVENTS_MAX)
        answers = await reach.ask_all(lambda cell: cell.audit.FindEvents, request)
        for refusal in answers.refused.values():
            raise refusal
        silent |= answers.silent
        for cell, reply in sorted(answers.given.items()):
            found |= dict.fromkeys(_found(cell, reply, subject))
    return Answer(list(found), dict(sorted(silent.items())), [cell for cell in reach.listed if cell not in silent])


class Subject(NamedTuple):
    """A meaning of what was typed: what a trace of it is called, its id, and whether it is an external reference."""

    text: str
    id: str
    is_reference: bool


def _subjects(query: str) -> Iterator[Subject]:
    """An id or a name; any other text is a reference, of a deposit or a withdrawal. Raises BadInput."""
    texts = [query] if _is_subject(query) else [f"{collection}/{query}" for collection in REFERENCED]
    for text in texts:
        try:
            yield Subject(text, str(parse_subject(text)), text.partition("/")[0] in REFERENCED)
        except FieldInvalid as invalid:
            raise BadInput(str(invalid)) from None


def _is_subject(text: str) -> bool:
    try:
        parse_subject(text)
    except FieldInvalid:
        return _NAME.fullmatch(text) is not None
    return True


def _found(cell: str, reply: audit_pb2.FindEventsResponse, subject: Subject) -> Iterator[Found]:
    if reply.HasField("refused"):
        yield Found("command that was refused", cell, trace_path(subject.text))
    for each in reply.events:
        if each.role == audit_pb2.TRACE_ROLE_SUBJECT:
            yield _meaning(each.event, subject)


def _meaning(event: event_pb2.Event, subject: Subject) -> Found:
    if subject.is_reference:
        return Found(f"external reference of {event.event_type}", event.cell, trace_path(event.event_id))
    if event.event_id == subject.id:
        return Found(f"event {event.event_type}", event.cell, event_path(event))
    if event.aggregate_id == subject.id:
        kind = EVENT_TYPES[event.event_type].kind if event.event_type in EVENT_TYPES else "stream"
        return Found(kind, event.cell, account_path(subject.id) if kind == Kind.ACCOUNT else trace_path(subject.text))
    return Found("flow" if event.correlation_id == subject.id else "command", event.cell, trace_path(subject.text))


async def event_at(reach: Reach, cell: str, position: int) -> event_pb2.Event:
    """The event at a position of the cell's log. Raises LedgerRefusal, ClientError."""
    found = reach.named(cell)
    request = event_pb2.SubscribeRequest(from_position=position)
    async with aclosing(found.items(found.events.Subscribe, request)) as stream:
        item = await anext(stream)
    if item.WhichOneof("item") == "event":
        return item.event
    raise BadInput(f"the log of {cell} does not reach position {position} yet")


# --- paths ------------------------------------------------------------------------------------------------------------


def event_path(event: event_pb2.Event) -> str:
    return f"/auditor/events/{event.event_id}"


def trace_path(subject: str) -> str:
    return f"/auditor/trace?{urlencode({'subject': subject})}"


def account_path(user_id: str) -> str:
    return f"/auditor/accounts/{user_id}"
