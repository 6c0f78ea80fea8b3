"""SettlementService: what other cells ask of this one."""

from typing import Any

import grpc.aio

from cellbook.v1 import settlement_pb2 as pb
from cellbook.v1.settlement_pb2_grpc import SettlementServiceServicer
from cells.cell import Cell
from cells.domain.refusals import NotPermitted
from cells.domain.values import Direction
from cells.ports import Clock
from cells.requests import Outcome
from server.shell.call import current_call
from server.wire import legs as wire

Context = grpc.aio.ServicerContext[Any, Any]


class SettlementServicer(SettlementServiceServicer):
    def __init__(self, cell: Cell, clock: Clock) -> None:
        self._cell = cell
        self._clock = clock

    async def ApplyLeg(self, request: pb.ApplyLegRequest, _context: Context) -> pb.ApplyLegResponse:
        outcome = await self._take(request, Direction.ACTION)
        return wire.applied_out(outcome, self._cell.name)

    async def CompensateLeg(self, request: pb.CompensateLegRequest, _context: Context) -> pb.CompensateLegResponse:
        outcome = await self._take(request, Direction.COMPENSATION)
        return wire.compensated_out(outcome, self._cell.name)

    async def _take(self, request: pb.ApplyLegRequest | pb.CompensateLegRequest, direction: Direction) -> Outcome:
        call, leg = current_call(), wire.leg_from_proto(request.leg)
        # A cell speaks for its own sagas alone.
        if leg.orchestrator != call.principal.name:
            raise NotPermitted(principal=str(call.principal), method=call.method)
        now_s, size_bytes = self._clock.monotonic_s(), request.ByteSize()
        return await self._cell.execute(
            wire.leg_request_in(leg, direction, call=call, now_s=now_s, size_bytes=size_bytes)
        )
