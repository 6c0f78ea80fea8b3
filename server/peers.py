"""The other cells and the router, as this cell calls them: typed stubs, explicit deadlines, one channel each."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import grpc
import structlog

from cellbook.v1 import router_pb2, router_pb2_grpc, settlement_pb2, settlement_pb2_grpc
from cells.domain.leg import LegResult
from cells.domain.refusals import Refused, Unavailable, UserNotFound
from cells.ports import LegAnswer, LegCall, PeerUnknown
from cells.uuids import uuid_from
from server.shell.client import Caller, open_channel
from server.shell.statuses import refusal_from
from server.wire.legs import leg_to_proto

log = structlog.get_logger()

ROUTER_TIMEOUT_S = 3.0
HOMES_MAX = 200_000

# What grpc says when nobody was there, or nobody in time; anything else has come from the peer's own process.
SILENCE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})

COMPENSATIONS = {
    settlement_pb2.COMPENSATION_RESULT_UNDONE: LegResult.UNDONE,
    settlement_pb2.COMPENSATION_RESULT_TOMBSTONED: LegResult.TOMBSTONED,
    settlement_pb2.COMPENSATION_RESULT_PIVOT_DONE: LegResult.APPLIED,
}


@dataclass(slots=True, kw_only=True)
class RouterDirectory:
    """Who lives where, and where the cells are, as the router says. What was learnt once is kept."""

    channel: grpc.aio.Channel | None
    caller: Caller
    # Cells that the settings name.
    static: Mapping[str, str]
    _homes: dict[UUID, str] = field(default_factory=dict)
    _cells: dict[str, Sequence[str]] = field(default_factory=dict)

    async def home_of(self, user_id: UUID) -> str | None:
        known = self._homes.get(user_id)
        if known is not None:
            return known
        stub = router_pb2_grpc.RouterServiceStub(self._router())
        request = router_pb2.ResolveUserRequest(user_id=str(user_id))
        try:
            reply = await self.caller.call(stub.ResolveUser, request, to="router", timeout_s=ROUTER_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            refused = refusal_from(error)
            if isinstance(refused, UserNotFound):
                return None
            raise Unavailable(problem=f"the router does not answer: {error.details()}") from error
        if len(self._homes) >= HOMES_MAX:
            self._homes.pop(next(iter(self._homes)))
        self._homes[user_id] = reply.home.cell
        return reply.home.cell

    async def knows_cell(self, cell: str) -> bool:
        if cell in self.static or cell in self._cells:
            return True
        self._cells |= await self.addresses()
        return cell in self._cells

    async def addresses(self) -> dict[str, Sequence[str]]:
        """The endpoints of each cell. Raises Unavailable."""
        stub = router_pb2_grpc.RouterServiceStub(self._router())
        request = router_pb2.ListCellsRequest()
        try:
            reply = await self.caller.call(stub.ListCells, request, to="router", timeout_s=ROUTER_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise Unavailable(problem=f"the router does not answer: {error.details()}") from error
        return {cell.name: list(cell.endpoints) for cell in reply.cells}

    def _router(self) -> grpc.aio.Channel:
        if self.channel is None:
            raise Unavailable(problem="no router is configured (setting `router`), and the user is not known here")
        return self.channel


@dataclass(slots=True, kw_only=True)
class GrpcPeers:
    """Only a definite refusal is raised as such: whatever else goes wrong, the leg may have happened."""

    static: Mapping[str, str]
    directory: RouterDirectory
    caller: Caller
    _channels: dict[str, grpc.aio.Channel] = field(default_factory=dict)

    async def apply_leg(self, cell: str, call: LegCall, *, timeout_s: float) -> LegAnswer:
        request = settlement_pb2.ApplyLegRequest(leg=leg_to_proto(call))
        stub = settlement_pb2_grpc.SettlementServiceStub(await self._channel(cell))
        try:
            reply = await self.caller.call(stub.ApplyLeg, request, to=cell, timeout_s=timeout_s)
            return LegAnswer(LegResult.APPLIED, uuid_from(reply.event_id))
        except (grpc.aio.AioRpcError, Refused, ValueError) as error:
            raise _failure(cell, error) from error

    async def compensate_leg(self, cell: str, call: LegCall, *, timeout_s: float) -> LegAnswer:
        request = settlement_pb2.CompensateLegRequest(leg=leg_to_proto(call))
        stub = settlement_pb2_grpc.SettlementServiceStub(await self._channel(cell))
        try:
            reply = await self.caller.call(stub.CompensateLeg, request, to=cell, timeout_s=timeout_s)
            return LegAnswer(COMPENSATIONS[reply.result], uuid_from(reply.event_id))
        except (grpc.aio.AioRpcError, Refused, KeyError, ValueError) as error:
            raise _failure(cell, error) from error

    async def _channel(self, cell: str) -> grpc.aio.Channel:
        channel = self._channels.get(cell)
        if channel is None:
            channel = open_channel(await self._address(cell))
            self._channels[cell] = channel
        return channel

    async def _address(self, cell: str) -> str:
        """Static settings first, then the router's list."""
        static = self.static.get(cell)
        if static is not None:
            return static
        try:
            endpoints = (await self.directory.addresses()).get(cell, ())
        except Unavailable as error:
            raise PeerUnknown(f"the address of {cell} is not known: {error.message}") from error
        if not endpoints:
            raise PeerUnknown(f"the address of {cell} is not known to the router")
        return endpoints[0]

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))


def _failure(cell: str, error: Exception) -> Exception:
    """What the peer's definite refusal says; all else, a clock of its that is refused here included, is unknown."""
    if not isinstance(error, grpc.aio.AioRpcError):
        return PeerUnknown(f"{cell}: {error}", answered=True)
    refused = refusal_from(error)
    if refused is not None:
        return refused
    problem = f"{cell}: {error.code().name}: {error.details()}"
    return PeerUnknown(problem, answered=error.code() not in SILENCE)
