"""SagaService."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import grpc.aio

from cellbook.v1 import saga_pb2 as pb
from cellbook.v1 import types_pb2
from cellbook.v1.saga_pb2_grpc import SagaServiceServicer
from cells.audit.history import History
from cells.cell import Cell
from cells.domain.commands import SagaOrder
from cells.ports import Clock
from cells.requests import Lane
from cells.sagas.desk import HISTORY_MAX, SagaDesk
from server.services.audit_parts import told
from server.services.executor import Executor
from server.wire import history as of_then
from server.wire import sagas as wire
from server.wire.common import Mutating, page_size_in, receipt_out, uuid_in

Context = grpc.aio.ServicerContext[Any, Any]


class SagaServicer(SagaServiceServicer):
    def __init__(self, cell: Cell, clock: Clock, history: History) -> None:
        self._name = cell.name
        self._history = history
        self._desk = SagaDesk(cell)
        self._executor = Executor(cell, clock)

    async def GetSaga(self, request: pb.GetSagaRequest, _context: Context) -> pb.GetSagaResponse:
        saga_id = uuid_in(request.saga_id, "saga_id")
        if request.HasField("as_of"):
            past = await told(self._history.saga(saga_id, of_then.moment_in(request.as_of)))
            events = await told(self._history.events_of(saga_id, past.point, HISTORY_MAX))
            return of_then.saga_out(saga_id, past, events, self._name)
        return wire.got_out(*await self._desk.get(saga_id), self._name)

    async def ListSagas(self, request: pb.ListSagasRequest, _context: Context) -> pb.ListSagasResponse:
        wanted, after = wire.filter_in(request), wire.place_in(request.page_token)
        size = page_size_in(request.page_size)
        # One more than the page tells whether there is a next page.
        return wire.listed_out(await self._desk.listed(wanted, stuck=request.stuck, after=after, limit=size + 1), size)

    async def WatchSaga(
        self, request: pb.WatchSagaRequest, _context: Context
    ) -> AsyncGenerator[pb.WatchSagaResponse, None]:
        async with aclosing(self._desk.watch(uuid_in(request.saga_id, "saga_id"))) as all_news:
            async for news in all_news:
                yield wire.news_out(news, self._name)

    async def RetrySaga(self, request: pb.RetrySagaRequest, _context: Context) -> pb.RetrySagaResponse:
        view = await self._desk.retry(uuid_in(request.saga_id, "saga_id"))
        return pb.RetrySagaResponse(saga=wire.saga_out(view, in_full=True))

    async def PauseSaga(self, request: pb.PauseSagaRequest, _context: Context) -> pb.PauseSagaResponse:
        return pb.PauseSagaResponse(receipt=await self._order(request, wire.pause_in(request)))

    async def ResumeSaga(self, request: pb.ResumeSagaRequest, _context: Context) -> pb.ResumeSagaResponse:
        return pb.ResumeSagaResponse(receipt=await self._order(request, wire.resume_in(request)))

    async def CompensateSaga(self, request: pb.CompensateSagaRequest, _context: Context) -> pb.CompensateSagaResponse:
        return pb.CompensateSagaResponse(receipt=await self._order(request, wire.compensate_in(request)))

    async def AdvanceSaga(self, request: pb.AdvanceSagaRequest, _context: Context) -> pb.AdvanceSagaResponse:
        step = await self._desk.advance(uuid_in(request.saga_id, "saga_id"))
        return pb.AdvanceSagaResponse(ended=step.ended, pause_ms=round(step.pause_s * 1_000))

    async def _order(self, request: Mutating, command: SagaOrder) -> types_pb2.CommandReceipt:
        """An operator's command does not wait behind bids."""
        outcome = await self._executor.execute(request, command, None, lane=Lane.URGENT)
        return receipt_out(outcome)
