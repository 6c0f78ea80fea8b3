"""SagaService."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import grpc.aio

from cellbook.v1 import saga_pb2 as pb
from cellbook.v1 import types_pb2
from cellbook.v1.saga_pb2_grpc import SagaServiceServicer
from cells.audit.history.questions import History
from cells.cell import Cell
from cells.domain.commands import SagaOrder
from cells.requests import Lane
from cells.sagas.admin import HISTORY_MAX, SagaAdmin
from cells.sagas.engine import SagaEngine
from server.services.audit_parts import map_store_errors
from server.services.executor import Executor
from server.wire import history as of_then
from server.wire import sagas as wire
from server.wire.common import Mutating, parse_page_size, parse_uuid, receipt_to_proto

Context = grpc.aio.ServicerContext[Any, Any]


class SagaServicer(SagaServiceServicer):
    def __init__(self, cell: Cell, engine: SagaEngine, history: History) -> None:
        self._name = cell.name
        self._history = history
        self._admin = SagaAdmin(cell, engine)
        self._executor = Executor(cell, cell.time.clock)

    async def GetSaga(self, request: pb.GetSagaRequest, _context: Context) -> pb.GetSagaResponse:
        saga_id = parse_uuid(request.saga_id, "saga_id")
        if request.HasField("as_of"):
            past = await map_store_errors(self._history.saga(saga_id, of_then.parse_moment(request.as_of)))
            events = await map_store_errors(self._history.events_of(saga_id, past.point, HISTORY_MAX))
            return of_then.saga_to_proto(saga_id, past, events, self._name)
        return wire.got_to_proto(*await self._admin.get(saga_id), self._name)

    async def ListSagas(self, request: pb.ListSagasRequest, _context: Context) -> pb.ListSagasResponse:
        wanted, after = wire.parse_filter(request), wire.parse_place(request.page_token)
        size = parse_page_size(request.page_size)
        # One more than the page tells whether there is a next page.
        return wire.listed_to_proto(
            await self._admin.listed(wanted, stuck=request.stuck, after=after, limit=size + 1), size
        )

    async def WatchSaga(
        self, request: pb.WatchSagaRequest, _context: Context
    ) -> AsyncGenerator[pb.WatchSagaResponse, None]:
        async with aclosing(self._admin.watch(parse_uuid(request.saga_id, "saga_id"))) as all_news:
            async for news in all_news:
                yield wire.news_to_proto(news, self._name)

    async def RetrySaga(self, request: pb.RetrySagaRequest, _context: Context) -> pb.RetrySagaResponse:
        view = await self._admin.retry(parse_uuid(request.saga_id, "saga_id"))
        return pb.RetrySagaResponse(saga=wire.saga_to_proto(view, in_full=True))

    async def PauseSaga(self, request: pb.PauseSagaRequest, _context: Context) -> pb.PauseSagaResponse:
        return pb.PauseSagaResponse(receipt=await self._order(request, wire.parse_pause(request)))

    async def ResumeSaga(self, request: pb.ResumeSagaRequest, _context: Context) -> pb.ResumeSagaResponse:
        return pb.ResumeSagaResponse(receipt=await self._order(request, wire.parse_resume(request)))

    async def CompensateSaga(self, request: pb.CompensateSagaRequest, _context: Context) -> pb.CompensateSagaResponse:
        return pb.CompensateSagaResponse(receipt=await self._order(request, wire.parse_compensate(request)))

    async def AdvanceSaga(self, request: pb.AdvanceSagaRequest, _context: Context) -> pb.AdvanceSagaResponse:
        step = await self._admin.advance(parse_uuid(request.saga_id, "saga_id"))
        return pb.AdvanceSagaResponse(ended=step.ended, pause_ms=round(step.pause_s * 1_000))

    async def _order(self, request: Mutating, command: SagaOrder) -> types_pb2.CommandReceipt:
        """An operator's command does not wait behind bids."""
        outcome = await self._executor.execute(request, command, None, lane=Lane.URGENT)
        return receipt_to_proto(outcome)
