"""SagaService."""

from typing import Any

import grpc.aio

from cellbook.v1 import saga_pb2 as pb
from cellbook.v1.saga_pb2_grpc import SagaServiceServicer
from cells.cell import Cell
from cells.domain.saga import Saga
from server.services.paging import Read, read_page
from server.wire import sagas as wire
from server.wire.common import page_in, uuid_in

Context = grpc.aio.ServicerContext[Any, Any]


class SagaServicer(SagaServiceServicer):
    def __init__(self, cell: Cell) -> None:
        self._cell = cell

    async def GetSaga(self, request: pb.GetSagaRequest, _context: Context) -> pb.GetSagaResponse:
        saga_id = uuid_in(request.saga_id, "saga_id")
        read = await self._cell.saga(saga_id)
        return wire.saga_read_out(saga_id, read, self._cell.saga_attempts(saga_id), self._cell.name)

    async def ListSagas(self, request: pb.ListSagasRequest, _context: Context) -> pb.ListSagasResponse:
        states, kind = wire.states_in(request.states), wire.kind_in(request.kind)
        page = page_in(request.page_size, request.page_token)
        rows = Read(page, lambda after, limit: self._cell.list_sagas(states=states, after=after, limit=limit))
        sagas, token = await read_page(rows, Saga, lambda saga: kind is None or saga.kind is kind)
        return wire.listed_out(sagas, token, self._cell.saga_attempts)
