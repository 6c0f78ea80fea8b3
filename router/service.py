"""RouterService on the wire: decode, ask, encode."""

import re
from typing import Any
from uuid import UUID

import grpc.aio

from cellbook.v1 import router_pb2, router_pb2_grpc
from router.directory import Directory, Home
from router.registration import Registration
from router.topology import Cell, Topology
from server.shell.call import current_call
from server.shell.refusals import FieldInvalid, UserNotFound

SHOWN_MAX = 80
_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_REGION = re.compile(r"[a-z0-9-]{0,32}")
_NIL = UUID(int=0)

Context = grpc.aio.ServicerContext[Any, Any]


class RouterService(router_pb2_grpc.RouterServiceServicer):
    def __init__(self, *, registration: Registration, directory: Directory, topology: Topology) -> None:
        self._registration = registration
        self._directory = directory
        self._topology = topology

    async def RegisterUser(
        self, request: router_pb2.RegisterUserRequest, _context: Context
    ) -> router_pb2.RegisterUserResponse:
        user_id, region = _user_id(request.user_id), _region(request.region)
        home = await self._registration.register(user_id, region, timeout_s=current_call().timeout_s)
        return router_pb2.RegisterUserResponse(home=_home_out(home), cell=_cell_out(home.cell))

    async def ResolveUser(
        self, request: router_pb2.ResolveUserRequest, _context: Context
    ) -> router_pb2.ResolveUserResponse:
        home = await self._directory.find(_user_id(request.user_id))
        if home is None:
            raise UserNotFound(user_id=request.user_id)
        return router_pb2.ResolveUserResponse(home=_home_out(home), cell=_cell_out(home.cell))

    async def ListCells(self, _request: router_pb2.ListCellsRequest, _context: Context) -> router_pb2.ListCellsResponse:
        return router_pb2.ListCellsResponse(cells=[_cell_out(cell) for cell in self._topology.cells])


def _user_id(text: str) -> UUID:
    """UUID() alone would take braces, blanks and other alphabets' digits: several names for one user."""
    if _UUID.fullmatch(text) is None:
        raise _invalid("user_id", "is not a UUID" if text else "is missing", text)
    user_id = UUID(text)
    if user_id == _NIL:
        raise _invalid("user_id", "must not be the nil UUID", text)
    return user_id


def _region(text: str) -> str:
    if _REGION.fullmatch(text) is None:
        raise _invalid("region", "is not a region: at most 32 of a-z, 0-9 and '-', or empty for any", text)
    return text


def _invalid(field: str, problem: str, value: str) -> FieldInvalid:
    return FieldInvalid(field=field, problem=problem, value=value[:SHOWN_MAX])


def _home_out(home: Home) -> router_pb2.Home:
    return router_pb2.Home(user_id=str(home.user_id), cell=home.cell.name, epoch=home.epoch, region=home.residency)


def _cell_out(cell: Cell) -> router_pb2.Cell:
    return router_pb2.Cell(name=cell.name, region=cell.region, endpoints=cell.endpoints, weight=cell.weight)
