"""RouterService on the wire: decode, execute, encode."""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeAlias

from cellbook.v1 import router_pb2 as pb
from cellbook.v1 import router_pb2_grpc
from cells.domain.audit.refusals import HomeNotVouched
from cells.domain.moves.home import Home
from cells.domain.refusals import UserNotFound
from router.directory.cells import CellEntry, CellStore, OperatorCommand
from router.directory.follower import Follower
from router.directory.homes import Homes
from router.directory.registration import Registration
from router.directory.topology import Cell, CellHealth, CellState, LiveTopology
from router.directory.users import CopiedHome, UserEntry
from router.moves.evacuation import RATE_PER_S, Evacuation
from router.moves.moves import Moves
from router.moves.progress import began_to_proto, move_to_proto
from router.moves.store import MoveRequest
from router.refusals import NoSuchCell
from server.shell.calls.call import current_call
from server.shell.fields.bounds import (
    ENDPOINTS,
    EPOCH,
    MOVES_A_SECOND,
    WEIGHT,
    invalid,
    items_in,
    number_in,
    region_in,
)
from server.shell.fields.parse import NIL, parse_cell, parse_new_user, parse_page_size, parse_uuid
from server.shell.identity.principal import Role
from server.shell.rpc import Context
from server.shell.settings.addresses import parse_address

StateRequest: TypeAlias = pb.DrainCellRequest | pb.MarkCellDownRequest | pb.UndrainCellRequest
CellRequest: TypeAlias = StateRequest | pb.RegisterCellRequest | pb.SetCellWeightRequest | pb.RemoveCellRequest

HEALTH = {
    CellHealth.UNKNOWN: pb.CELL_HEALTH_UNSPECIFIED,
    CellHealth.SERVING: pb.CELL_HEALTH_SERVING,
    CellHealth.NOT_SERVING: pb.CELL_HEALTH_NOT_SERVING,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterService(router_pb2_grpc.RouterServiceServicer):
    registration: Registration
    homes: Homes
    cells: CellStore
    follower: Follower
    topology: LiveTopology
    moves: Moves

    async def RegisterUser(self, request: pb.RegisterUserRequest, _context: Context) -> pb.RegisterUserResponse:
        user_id, region = parse_new_user(request.user_id, "user_id"), region_in(request.region)
        home = await self.registration.register(user_id, region, timeout_s=current_call().timeout_s)
        return pb.RegisterUserResponse(home=_home_to_proto(home), cell=_cell_to_proto(self._as_seen(home)))

    async def ResolveUser(self, request: pb.ResolveUserRequest, _context: Context) -> pb.ResolveUserResponse:
        home = await self.homes.find(parse_uuid(request.user_id, "user_id"))
        if home is None:
            raise UserNotFound(user_id=request.user_id)
        return pb.ResolveUserResponse(home=_home_to_proto(home), cell=_cell_to_proto(self._as_seen(home)))

    async def ListCells(self, request: pb.ListCellsRequest, _context: Context) -> pb.ListCellsResponse:
        now = self.topology.now
        users = await self.cells.count_users() if request.count_users else None
        cells = [_cell_to_proto(cell, None if users is None else users.get(cell.name, 0)) for cell in now.cells]
        return pb.ListCellsResponse(cells=cells, version=now.version, read_only=now.read_only)

    async def WatchTopology(
        self, _request: pb.WatchTopologyRequest, _context: Context
    ) -> AsyncIterator[pb.WatchTopologyResponse]:
        async for now in self.topology.follow():
            cells = [_cell_to_proto(cell) for cell in now.cells]
            yield pb.WatchTopologyResponse(cells=cells, version=now.version, read_only=now.read_only)

    async def RegisterCell(self, request: pb.RegisterCellRequest, _context: Context) -> pb.RegisterCellResponse:
        entry = _parse_entry(request)
        await self.cells.put(entry, bring_back=request.bring_back, command=_command(request))
        return pb.RegisterCellResponse(cell=await self._changed(entry.name))

    async def SetCellWeight(self, request: pb.SetCellWeightRequest, _context: Context) -> pb.SetCellWeightResponse:
        name = parse_cell(request.name, "name")
        await self.cells.set_weight(name, number_in(request.weight, "weight", WEIGHT), _command(request))
        return pb.SetCellWeightResponse(cell=await self._changed(name))

    async def DrainCell(self, request: pb.DrainCellRequest, _context: Context) -> pb.DrainCellResponse:
        return pb.DrainCellResponse(cell=await self._in_state(request, CellState.DRAINING))

    async def MarkCellDown(self, request: pb.MarkCellDownRequest, _context: Context) -> pb.MarkCellDownResponse:
        return pb.MarkCellDownResponse(cell=await self._in_state(request, CellState.DOWN))

    async def UndrainCell(self, request: pb.UndrainCellRequest, _context: Context) -> pb.UndrainCellResponse:
        return pb.UndrainCellResponse(cell=await self._in_state(request, CellState.ACTIVE))

    async def RemoveCell(self, request: pb.RemoveCellRequest, _context: Context) -> pb.RemoveCellResponse:
        await self.cells.remove(parse_cell(request.name, "name"), _command(request))
        await self.follower.poll()
        return pb.RemoveCellResponse()

    async def MoveUser(self, request: pb.MoveUserRequest, _context: Context) -> pb.MoveUserResponse:
        user_id, command_id = parse_uuid(request.user_id, "user_id"), parse_uuid(request.command_id, "command_id")
        region = region_in(request.region) if request.HasField("region") else None
        call, to_cell = current_call(), parse_cell(request.cell, "cell")
        asked = MoveRequest(user_id, to_cell, region, str(call.principal), command_id)
        began = await self.moves.move(asked, timeout_s=call.timeout_s)
        return pb.MoveUserResponse(move=began_to_proto(began), replayed=began.replayed)

    async def GetMove(self, request: pb.GetMoveRequest, _context: Context) -> pb.GetMoveResponse:
        user_id = parse_uuid(request.user_id, "user_id")
        move, saga = await self.moves.saga_of(user_id)
        return pb.GetMoveResponse(move=move_to_proto(move, saga, await self.homes.find(user_id)))

    async def EvacuateCell(
        self, request: pb.EvacuateCellRequest, _context: Context
    ) -> AsyncIterator[pb.EvacuateCellResponse]:
        evacuation = Evacuation(
            moves=self.moves,
            directory=self.registration.directory,
            topology=self.topology,
            cell=parse_cell(request.name, "name"),
            rate_per_s=number_in(request.rate_per_s, "rate_per_s", MOVES_A_SECOND) or RATE_PER_S,
            principal=str(current_call().principal),
        )
        async with aclosing(evacuation.run()) as progresses:
            async for progress in progresses:
                yield progress

    async def RecordHome(self, request: pb.RecordHomeRequest, _context: Context) -> pb.RecordHomeResponse:
        user_id, principal = parse_uuid(request.user_id, "user_id"), current_call().principal
        claimed = Home(parse_cell(request.cell, "cell"), number_in(request.epoch, "epoch", EPOCH))
        region = region_in(request.region) if request.HasField("region") else None
        directory = self.registration.directory
        if principal.role is Role.OPERATOR:
            user_id = parse_new_user(request.user_id, "user_id")
            await directory.put_home(user_id, claimed, region)
        else:
            await directory.adopt(user_id, claimed, region, by=principal.name)
        self.registration.homed()
        home = await directory.find(user_id)
        if self.topology.now.cell(claimed.cell) is None:
            raise NoSuchCell(cell=claimed.cell)
        if home is None:
            raise UserNotFound(user_id=request.user_id)
        if home.epoch < claimed.epoch:
            raise HomeNotVouched(
                peer=principal.name, user_id=request.user_id, epoch=claimed.epoch, cell=home.cell.name, known=home.epoch
            )
        return pb.RecordHomeResponse(home=_home_to_proto(home))

    async def ListDirectory(self, request: pb.ListDirectoryRequest, _context: Context) -> pb.ListDirectoryResponse:
        after = parse_uuid(request.after_user, "after_user") if request.after_user else NIL
        found = await self.registration.directory.homes_after(after, parse_page_size(request.page_size))
        return pb.ListDirectoryResponse(homes=[_listed_to_proto(*each) for each in found])

    async def _in_state(self, request: StateRequest, state: CellState) -> pb.Cell:
        await self.cells.set_state(parse_cell(request.name, "name"), state, _command(request))
        return await self._changed(request.name)

    async def _changed(self, name: str) -> pb.Cell:
        """The cell after a change, which this router uses from now on."""
        await self.follower.poll()
        cell = self.topology.now.cell(name)
        if cell is None:
            # Another operator has removed it in the meantime.
            raise NoSuchCell(cell=name)
        return _cell_to_proto(cell)

    def _as_seen(self, home: UserEntry) -> Cell:
        """The user's cell with its probed health; the directory's row, if that is newer."""
        return self.topology.now.cell(home.cell.name) or home.cell


# --- from proto ---------------------------------------------------------------------------------------------


def _command(request: CellRequest) -> OperatorCommand | None:
    """None: the request names no command."""
    if not request.command_id:
        return None
    content = request.DESCRIPTOR.full_name.encode() + b"/" + request.SerializeToString(deterministic=True)
    command_id = parse_uuid(request.command_id, "command_id")
    return OperatorCommand(str(current_call().principal), command_id, sha256(content).digest())


def _parse_entry(request: pb.RegisterCellRequest) -> CellEntry:
    if not request.region:
        raise invalid("region", "is missing")
    return CellEntry(
        name=parse_cell(request.name, "name"),
        region=region_in(request.region),
        endpoints=_parse_endpoints(request.endpoints),
        weight=number_in(request.weight, "weight", WEIGHT) if request.HasField("weight") else None,
    )


def _parse_endpoints(endpoints: Sequence[str]) -> tuple[str, ...]:
    items_in(endpoints, "endpoints", ENDPOINTS)
    checked = []
    for text in endpoints:
        try:
            checked.append(str(parse_address(text)))
        except ValueError as problem:
            raise invalid("endpoints", str(problem), text) from None
    return tuple(dict.fromkeys(checked))


# --- to proto -----------------------------------------------------------------------------------------------


def _home_to_proto(entry: UserEntry) -> pb.Home:
    return pb.Home(user_id=str(entry.user_id), cell=entry.cell.name, epoch=entry.epoch, region=entry.residency)


def _listed_to_proto(home: CopiedHome, is_open: bool) -> pb.ListedHome:  # noqa: FBT001 - as the row has it
    listed = pb.Home(user_id=str(home.user_id), cell=home.cell, epoch=home.epoch, region=home.residency)
    return pb.ListedHome(home=listed, open=is_open)


def _cell_to_proto(cell: Cell, users: int | None = None) -> pb.Cell:
    return pb.Cell(
        name=cell.name,
        region=cell.region,
        endpoints=cell.endpoints,
        weight=cell.weight,
        state=pb.CellState.Value(f"CELL_STATE_{cell.state.value}"),
        health=HEALTH[cell.health],
        users=users,
    )
