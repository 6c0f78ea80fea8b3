"""EventService."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from cellbook.v1 import event_pb2 as pb
from cellbook.v1.event_pb2_grpc import EventServiceServicer
from cells.cell import Cell
from cells.requests import Progress
from server.services.audit_parts import Context, note_access
from server.shell.fields.bounds import POSITION_OR_NONE, number_in
from server.wire import events as wire


class EventServicer(EventServiceServicer):
    def __init__(self, cell: Cell) -> None:
        self._cell = cell

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
