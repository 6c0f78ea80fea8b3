"""SagaService."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from cellbook.v1 import saga_pb2 as pb
from cellbook.v1.saga_pb2_grpc import SagaServiceServicer
from cells.audit.history.questions import History
from cells.cell import Cell
from cells.domain import commands
from cells.requests import Lane
from cells.sagas.admin import HISTORY_MAX, SagaAdmin, SagaView
from cells.sagas.engine import SagaEngine
from cells.store.failures import map_store_errors
from server.services.audit_parts import Context
from server.services.commands import Executor, command
from server.shell.fields.parse import parse_page_size, parse_uuid
from server.wire import sagas as wire
from server.wire.history import parse_moment

# An operator's command does not wait behind bids.
URGENT = Lane.URGENT


class SagaServicer(SagaServiceServicer):
    def __init__(self, cell: Cell, engine: SagaEngine, history: History) -> None:
        self._name = cell.name
        self._history = history
        self._admin = SagaAdmin(cell, engine)
        self.executor = Executor(cell, cell.time.clock)

    async def GetSaga(self, request: pb.GetSagaRequest, _context: Context) -> pb.GetSagaResponse:
        saga_id = parse_uuid(request.saga_id, "saga_id")
        if not request.HasField("as_of"):
            return wire.got_to_proto(*await self._admin.get(saga_id), None, self._name)
        past = await map_store_errors(self._history.saga(saga_id, parse_moment(request.as_of)))
        events = await map_store_errors(self._history.events_of(saga_id, past.point, HISTORY_MAX))
        view = SagaView(saga_id, past.state, past.stream_version, None, stuck=False)
        return wire.got_to_proto(view, past.point.position, events, past.point, self._name)

    async def ListSagas(self, request: pb.ListSagasRequest, _context: Context) -> pb.ListSagasResponse:
        wanted, after = wire.parse_filter(request), wire.PLACES.parse(request.page_token)
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

    PauseSaga = command(commands.PauseSaga, pb.PauseSagaRequest, pb.PauseSagaResponse, user=None, lane=URGENT)
    ResumeSaga = command(commands.ResumeSaga, pb.ResumeSagaRequest, pb.ResumeSagaResponse, user=None, lane=URGENT)
    CompensateSaga = command(
        commands.CompensateSaga, pb.CompensateSagaRequest, pb.CompensateSagaResponse, user=None, lane=URGENT
    )

    async def AdvanceSaga(self, request: pb.AdvanceSagaRequest, _context: Context) -> pb.AdvanceSagaResponse:
        step = await self._admin.advance(parse_uuid(request.saga_id, "saga_id"))
        return pb.AdvanceSagaResponse(ended=step.ended, pause_ms=round(step.pause_s * 1_000))
