"""MoveService."""

from cellbook.v1 import move_pb2 as pb
from cellbook.v1.move_pb2_grpc import MoveServiceServicer
from cells.cell import Cell
from cells.domain.moves.commands import BeginMove
from cells.requests import Lane
from cells.store.ports import Clock
from server.contacts.handover import Handover
from server.services.audit_parts import Context, note_access
from server.services.commands import Executor, command
from server.shell.calls.call import current_call
from server.shell.fields.bounds import HASH, bytes_in
from server.shell.fields.parse import parse_page_size, parse_uuid
from server.wire import moves as wire


class MoveServicer(MoveServiceServicer):
    def __init__(self, cell: Cell, clock: Clock, handover: Handover) -> None:
        self._cell = cell
        self._clock = clock
        self._handover = handover
        self.executor = Executor(cell, clock)

    # An operator's command does not wait behind bids.
    BeginMove = command(BeginMove, pb.BeginMoveRequest, pb.BeginMoveResponse, lane=Lane.URGENT)

    async def BringBaggage(self, request: pb.BringBaggageRequest, _context: Context) -> pb.BringBaggageResponse:
        peer = current_call().principal.name
        held = await self._cell.user_import.receive(wire.parse_bundle(request, peer, self._clock.wall()), peer=peer)
        return pb.BringBaggageResponse(held=[pb.HeldEvents(cell=cell, events=held[cell]) for cell in sorted(held)])

    async def HandOverContact(
        self, request: pb.HandOverContactRequest, _context: Context
    ) -> pb.HandOverContactResponse:
        user_id, saga_id = parse_uuid(request.user_id, "user_id"), parse_uuid(request.saga_id, "saga_id")
        public_key = bytes_in(request.public_key, "public_key", HASH)
        await self._cell.user_import.check_departed(user_id, saga_id, to=current_call().principal.name)
        return await self._handover.given(user_id, public_key)

    async def EraseEarlierContact(
        self, request: pb.EraseEarlierContactRequest, _context: Context
    ) -> pb.EraseEarlierContactResponse:
        user_id = parse_uuid(request.user_id, "user_id")
        await self._cell.user_import.require_home(user_id, current_call().principal.name)
        await self._handover.erase(user_id)
        return pb.EraseEarlierContactResponse()

    async def ListEarlierEvents(
        self, request: pb.ListEarlierEventsRequest, _context: Context
    ) -> pb.ListEarlierEventsResponse:
        user_id, after = parse_uuid(request.user_id, "user_id"), wire.parse_place(request.page_token)
        size = parse_page_size(request.page_size)
        note_access(self._cell.accesses, user_id)
        await self._cell.account(user_id)
        # One more than the page tells whether there is a next page.
        return wire.earlier_to_proto(
            await self._cell.user_import.earlier_events(user_id, after=after, limit=size + 1), size
        )
