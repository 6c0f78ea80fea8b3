"""SettlementService: calls from other cells."""

import asyncio

from cellbook.v1 import settlement_pb2 as pb
from cellbook.v1.settlement_pb2_grpc import SettlementServiceServicer
from cells.cell import Cell
from cells.domain.refusals import NotLeading, NotPermitted
from cells.domain.values import Direction
from cells.requests import Outcome
from cells.store.ports import Clock
from server.process.clock import sent_ms
from server.services.audit_parts import Context
from server.shell.calls.call import METADATA, current_call
from server.wire import legs as wire


class SettlementServicer(SettlementServiceServicer):
    def __init__(self, cell: Cell, clock: Clock) -> None:
        self._cell = cell
        self._clock = clock

    async def ApplyLeg(self, request: pb.ApplyLegRequest, _context: Context) -> pb.ApplyLegResponse:
        outcome = await self._take(request.leg, Direction.ACTION)
        return wire.applied_to_proto(outcome)

    async def CompensateLeg(self, request: pb.CompensateLegRequest, _context: Context) -> pb.CompensateLegResponse:
        outcome = await self._take(request.leg, Direction.COMPENSATION)
        return wire.compensated_to_proto(outcome)

    async def BatchLegs(self, request: pb.BatchLegsRequest, _context: Context) -> pb.BatchLegsResponse:
        items = wire.parse_leg_items(request.items)
        answers = await asyncio.gather(*map(self._take_item, items), return_exceptions=True)
        for answer in answers:
            # The leader answers all of them; it has stored the answers of those that were executed before it led.
            if isinstance(answer, NotLeading):
                raise answer
        return wire.results_to_proto(items, answers)

    async def _take_item(self, item: pb.LegRequest) -> Outcome:
        return await self._take(*wire.parse_leg_item(item))

    async def _take(self, message: pb.Leg, direction: Direction) -> Outcome:
        call, leg = current_call(), wire.leg_from_proto(message)
        # A cell may act only for its own sagas, and never needs to call itself.
        if leg.orchestrator != call.principal.name or leg.orchestrator == self._cell.name:
            raise NotPermitted(principal=str(call.principal), method=call.method)
        request = wire.parse_leg_request(
            leg,
            direction,
            cell=self._cell.name,
            call=call,
            now_s=self._clock.monotonic_s(),
            size_bytes=message.ByteSize(),
            sent_ms=sent_ms(METADATA.get()),
        )
        return await self._cell.execute(request)
