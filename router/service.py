"""RouterService on the wire: decode, execute, encode."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import grpc.aio

from cellbook.v1 import router_pb2 as pb
from cellbook.v1 import router_pb2_grpc
from cells.domain.audit.claim_refusals import HomeNotVouched
from cells.domain.refusals import UserNotFound
from router.directory import Home
from router.evacuation import Evacuation
from router.follower import Follower
from router.homes import Homes
from router.move_store import MoveRequest
from router.moves import Moves
from router.operations import Operations, OperatorCommand
from router.refusals import NoSuchCell
from router.registration import Registration
from router.topology import Cell, CellState, LiveTopology
from router.wire import (
    began_to_proto,
    cell_to_proto,
    home_to_proto,
    listed_to_proto,
    move_to_proto,
    parse_command,
    parse_entry,
    parse_epoch,
    parse_name,
    parse_new_user_id,
    parse_page_size,
    parse_rate,
    parse_user_id,
    parse_weight,
    progress_to_proto,
)
from server.shell.calls.call import current_call
from server.shell.fields.bounds import region_in
from server.shell.identity.principal import Role

StateRequest = pb.DrainCellRequest | pb.MarkCellDownRequest | pb.UndrainCellRequest
CellRequest = StateRequest | pb.RegisterCellRequest | pb.SetCellWeightRequest | pb.RemoveCellRequest
Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterService(router_pb2_grpc.RouterServiceServicer):
    registration: Registration
    homes: Homes
    operations: Operations
    follower: Follower
    topology: LiveTopology
    moves: Moves

    async def RegisterUser(self, request: pb.RegisterUserRequest, _context: Context) -> pb.RegisterUserResponse:
        user_id, region = parse_new_user_id(request.user_id), region_in(request.region)
        home = await self.registration.register(user_id, region, timeout_s=current_call().timeout_s)
        return pb.RegisterUserResponse(home=home_to_proto(home), cell=cell_to_proto(self._as_seen(home)))

    async def ResolveUser(self, request: pb.ResolveUserRequest, _context: Context) -> pb.ResolveUserResponse:
        home = await self.homes.find(parse_user_id(request.user_id))
        if home is None:
            raise UserNotFound(user_id=request.user_id)
        return pb.ResolveUserResponse(home=home_to_proto(home), cell=cell_to_proto(self._as_seen(home)))

    async def ListCells(self, request: pb.ListCellsRequest, _context: Context) -> pb.ListCellsResponse:
        now = self.topology.now
        users = await self.operations.count_users() if request.count_users else None
        cells = [cell_to_proto(cell, None if users is None else users.get(cell.name, 0)) for cell in now.cells]
        return pb.ListCellsResponse(cells=cells, version=now.version, read_only=now.read_only)

    async def WatchTopology(
        self, _request: pb.WatchTopologyRequest, _context: Context
    ) -> AsyncIterator[pb.WatchTopologyResponse]:
        async for now in self.topology.follow():
            cells = [cell_to_proto(cell) for cell in now.cells]
            yield pb.WatchTopologyResponse(cells=cells, version=now.version, read_only=now.read_only)

    async def RegisterCell(self, request: pb.RegisterCellRequest, _context: Context) -> pb.RegisterCellResponse:
        entry = parse_entry(request)
        await self.operations.put(entry, bring_back=request.bring_back, command=_command(request))
        return pb.RegisterCellResponse(cell=await self._changed(entry.name))

    async def SetCellWeight(self, request: pb.SetCellWeightRequest, _context: Context) -> pb.SetCellWeightResponse:
        name = parse_name(request.name)
        await self.operations.set_weight(name, parse_weight(request.weight), _command(request))
        return pb.SetCellWeightResponse(cell=await self._changed(name))

    async def DrainCell(self, request: pb.DrainCellRequest, _context: Context) -> pb.DrainCellResponse:
        return pb.DrainCellResponse(cell=await self._in_state(request, CellState.DRAINING))

    async def MarkCellDown(self, request: pb.MarkCellDownRequest, _context: Context) -> pb.MarkCellDownResponse:
        return pb.MarkCellDownResponse(cell=await self._in_state(request, CellState.DOWN))

    async def UndrainCell(self, request: pb.UndrainCellRequest, _context: Context) -> pb.UndrainCellResponse:
        return pb.UndrainCellResponse(cell=await self._in_state(request, CellState.ACTIVE))

    async def RemoveCell(self, request: pb.RemoveCellRequest, _context: Context) -> pb.RemoveCellResponse:
        await self.operations.remove(parse_name(request.name), _command(request))
        await self.follower.poll()
        return pb.RemoveCellResponse()

    async def MoveUser(self, request: pb.MoveUserRequest, _context: Context) -> pb.MoveUserResponse:
        user_id, command_id = parse_user_id(request.user_id), parse_user_id(request.command_id, "command_id")
        region = region_in(request.region) if request.HasField("region") else None
        call, to_cell = current_call(), parse_name(request.cell, "cell")
        asked = MoveRequest(user_id, to_cell, region, str(call.principal), command_id)
        began = await self.moves.move(asked, timeout_s=call.timeout_s)
        return pb.MoveUserResponse(move=began_to_proto(began), replayed=began.replayed)

    async def GetMove(self, request: pb.GetMoveRequest, _context: Context) -> pb.GetMoveResponse:
        user_id = parse_user_id(request.user_id)
        move, saga = await self.moves.saga_of(user_id)
        return pb.GetMoveResponse(move=move_to_proto(move, saga, await self.homes.find(user_id)))

    async def EvacuateCell(
        self, request: pb.EvacuateCellRequest, _context: Context
    ) -> AsyncIterator[pb.EvacuateCellResponse]:
        evacuation = Evacuation(
            moves=self.moves,
            directory=self.registration.directory,
            topology=self.topology,
            cell=parse_name(request.name),
            rate_per_s=parse_rate(request.rate_per_s),
            principal=str(current_call().principal),
        )
        async with aclosing(evacuation.run()) as progresses:
            async for progress in progresses:
                yield progress_to_proto(progress)

    async def RecordHome(self, request: pb.RecordHomeRequest, _context: Context) -> pb.RecordHomeResponse:
        user_id, cell = parse_user_id(request.user_id), parse_name(request.cell, "cell")
        region = region_in(request.region) if request.HasField("region") else None
        principal, epoch = current_call().principal, parse_epoch(request.epoch)
        if principal.role is Role.OPERATOR:
            user_id = parse_new_user_id(request.user_id)
            await self.moves.store.put_home(user_id, cell, epoch, region)
        else:
            await self.moves.store.adopt(user_id, cell, epoch, region, by=principal.name)
        self.registration.homed()
        home = await self.registration.directory.find(user_id)
        if self.topology.now.cell(cell) is None:
            raise NoSuchCell(cell=cell)
        if home is None:
            raise UserNotFound(user_id=request.user_id)
        if home.epoch < epoch:
            raise HomeNotVouched(
                peer=principal.name, user_id=request.user_id, epoch=epoch, cell=home.cell.name, known=home.epoch
            )
        return pb.RecordHomeResponse(home=home_to_proto(home))

    async def ListDirectory(self, request: pb.ListDirectoryRequest, _context: Context) -> pb.ListDirectoryResponse:
        after = parse_user_id(request.after_user, "after_user") if request.after_user else UUID(int=0)
        found = await self.registration.directory.homes_after(after, parse_page_size(request.page_size))
        return pb.ListDirectoryResponse(homes=[listed_to_proto(*each) for each in found])

    async def _in_state(self, request: StateRequest, state: CellState) -> pb.Cell:
        await self.operations.set_state(parse_name(request.name), state, _command(request))
        return await self._changed(request.name)

    async def _changed(self, name: str) -> pb.Cell:
        """The cell after a change, which this router uses from now on."""
        await self.follower.poll()
        cell = self.topology.now.cell(name)
        if cell is None:
            # Another operator has removed it in the meantime.
            raise NoSuchCell(cell=name)
        return cell_to_proto(cell)

    def _as_seen(self, home: Home) -> Cell:
        """The user's cell with its probed health; the directory's row, if that is newer."""
        return self.topology.now.cell(home.cell.name) or home.cell


def _command(request: CellRequest) -> OperatorCommand | None:
    """None: the request names no command."""
    return parse_command(request, request.command_id, str(current_call().principal))
