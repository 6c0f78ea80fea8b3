"""The router's calls to a user's home cell about a move."""

from dataclasses import dataclass, field

import grpc.aio

from cellbook.v1 import move_pb2, move_pb2_grpc, saga_pb2, saga_pb2_grpc
from cells.domain.moves.refusals import HomeChanged
from cells.domain.refusals import Refused, WrongCell
from router.directory.registration import ROUTER
from router.directory.topology import LiveTopology
from router.moves.store import Move
from router.refusals import MoveUnknown
from server.shell.calls.statuses import refusal_in
from server.shell.channels.channel_pool import ChannelPool
from server.shell.channels.client import Caller

ASK_TIMEOUT_S = 5.0
IN_PROGRESS = "IN_PROGRESS"


@dataclass(slots=True, kw_only=True)
class MoveCalls:
    """Calls the leading process of a cell, out of all its processes."""

    topology: LiveTopology
    channels: ChannelPool
    _caller: Caller = field(default_factory=lambda: Caller(ROUTER))

    async def begin(self, move: Move, timeout_s: float) -> bool:
        """Makes the user's home move the user: True once it is done, False while it is under way.

        Raises:
            WrongCell, HomeChanged: the user lives elsewhere, or there under another epoch; nothing has begun.
            Refused: the move was called off, or another one is under way.
            MoveUnknown: the outcome is unknown.
        """
        stub, asked = move_pb2_grpc.MoveServiceStub(self._channel(move)), move.request
        request = move_pb2.BeginMoveRequest(
            command_id=str(move.begin_id),
            user_id=str(asked.user_id),
            to_cell=asked.to_cell,
            region=move.residency,
            from_epoch=move.from_epoch,
        )
        try:
            await self._caller.call(stub.BeginMove, request, to=move.from_cell, timeout_s=timeout_s)
        except grpc.aio.AioRpcError as error:
            refused = refusal_in(error)
            if refused is not None and refused.reason == IN_PROGRESS:
                return False
            if isinstance(refused, WrongCell | HomeChanged) or (refused is not None and refused.final):
                raise refused from error
            raise _unknown(move, error) from error
        return True

    async def saga(self, move: Move) -> saga_pb2.Saga | None:
        """The saga of the move; None: it has not begun there. Raises MoveUnknown."""
        stub = saga_pb2_grpc.SagaServiceStub(self._channel(move))
        request = saga_pb2.GetSagaRequest(saga_id=str(move.saga_id))
        try:
            answer = await self._caller.call(stub.GetSaga, request, to=move.from_cell, timeout_s=ASK_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise _unknown(move, error) from error
        return answer.saga

    def _channel(self, move: Move) -> grpc.aio.Channel:
        """Raises MoveUnknown: the cell may have done the move before it was removed."""
        cell = self.topology.now.cell(move.from_cell)
        if cell is None:
            problem = "the directory has that cell no more"
            raise MoveUnknown(user_id=str(move.request.user_id), cell=move.from_cell, problem=problem)
        return self.channels.channel(cell.name, cell.endpoints)


def _unknown(move: Move, error: grpc.aio.AioRpcError) -> Refused:
    problem = f"{error.code().name}: {error.details()}"
    return MoveUnknown(user_id=str(move.request.user_id), cell=move.from_cell, problem=problem)
