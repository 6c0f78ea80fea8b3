"""EventService."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from cellbook.v1 import event_pb2 as pb
from cellbook.v1.event_pb2_grpc import EventServiceServicer
from cells.audit.history.questions import History
from cells.cell import Cell
from cells.requests import Progress
from cells.store.failures import map_store_errors
from server.services.audit_parts import Context, note_access
from server.shell.fields.bounds import POSITION_OR_NONE, number_in
from server.shell.fields.parse import parse_page_size, parse_uuid
from server.wire import events as wire


class EventServicer(EventServiceServicer):
    def __init__(self, cell: Cell, history: History) -> None:
        self._cell = cell
        self._history = history

    async def Subscribe(
        self, request: pb.SubscribeRequest, _context: Context
    ) -> AsyncGenerator[pb.SubscribeResponse, None]:
        position = number_in(request.from_position, "from_position", POSITION_OR_NONE)
        wanted = wire.parse_filter(request.filter)
        note_access(self._cell.accesses, wanted.user_id or wanted.aggregate_id)
        async with aclosing(self._cell.subscribe(from_position=position, event_filter=wanted)) as items:
            async for item in items:
                if request.progress or not isinstance(item, Progress):
                    yield wire.item_to_proto(item, self._cell.name)

    async def ListUserEvents(self, request: pb.ListUserEventsRequest, _context: Context) -> pb.ListUserEventsResponse:
        user_id, size = parse_uuid(request.user_id, "user_id"), parse_page_size(request.page_size)
        below = wire.VERSIONS.parse(request.page_token)
        note_access(self._cell.accesses, user_id)
        last = (await self._cell.account(user_id)).stream_version
        last = last if below is None else min(last, max(below - 1, 0))
        first = max(last - size + 1, 1)
        rows = await map_store_errors(self._history.versions(user_id, first, last))
        return wire.user_events_to_proto(rows[::-1], first, self._cell.name)
