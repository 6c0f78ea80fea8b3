"""The calls behind `cellbook saga`."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from google.protobuf.message import Message
from grpc import aio

from cellbook.v1 import saga_pb2
from server.cli.client import CellStubs, ClientError, new_command_id, unknown_in
from server.cli.reach import OPERATOR, Reach

NOT_FOUND = "SAGA_NOT_FOUND"
PAGE = 1_000
ORDERS: dict[str, tuple[Callable[[CellStubs], Callable[..., Awaitable[Message]]], type[Message]]] = {
    "pause": (lambda cell: cell.sagas.PauseSaga, saga_pb2.PauseSagaRequest),
    "resume": (lambda cell: cell.sagas.ResumeSaga, saga_pb2.ResumeSagaRequest),
    "compensate": (lambda cell: cell.sagas.CompensateSaga, saga_pb2.CompensateSagaRequest),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """Sagas with the cell that orchestrates each, oldest first. `more`: there are further ones beyond the limit."""

    sagas: list[tuple[str, saga_pb2.Saga]] = field(default_factory=list)
    silent: dict[str, str] = field(default_factory=dict)
    more: bool = False


def saga_id_in(text: str) -> str:
    """Raises ClientError."""
    try:
        return str(UUID(text))
    except ValueError:
        raise ClientError(f"{text!r} is no id of a saga: expected a UUID, as `cellbook saga list` shows it") from None


async def listed(reach: Reach, request: saga_pb2.ListSagasRequest, limit: int) -> Listed:
    """The `limit` oldest of all cells."""
    first = saga_pb2.ListSagasRequest()
    first.CopyFrom(request)
    first.page_size = min(limit, PAGE)
    answers = await reach.ask_all(lambda cell: cell.sagas.ListSagas, first)
    for refusal in answers.refused.values():
        raise refusal
    sagas, more = [], False
    cells = {cell.name: cell for cell in reach.cells}
    for name, reply in answers.given.items():
        found = [(name, saga) for saga in reply.sagas]
        while reply.next_page_token and len(found) < limit:
            first.page_token = reply.next_page_token
            reply = await reach.client.call(cells[name].sagas.ListSagas, first, OPERATOR)  # noqa: PLW2901
            found += [(name, saga) for saga in reply.sagas]
        more = more or bool(reply.next_page_token)
        sagas += found
    sagas.sort(key=lambda pair: (pair[1].start_time_ms, pair[1].saga_id))
    return Listed(sagas=sagas[:limit], silent=answers.silent, more=more or len(sagas) > limit)


async def found(reach: Reach, saga_id: str) -> tuple[CellStubs, saga_pb2.GetSagaResponse]:
    """The cell that orchestrates the saga, and its answer. Raises ClientError, LedgerRefusal."""
    answers = await reach.ask_all(lambda cell: cell.sagas.GetSaga, saga_pb2.GetSagaRequest(saga_id=saga_id))
    for cell in reach.cells:
        if cell.name in answers.given:
            return cell, answers.given[cell.name]
    for refusal in answers.refused.values():
        if refusal.reason != NOT_FOUND:
            raise refusal
    if answers.silent:
        told = "; ".join(f"{name}: {problem}" for name, problem in sorted(answers.silent.items()))
        raise ClientError(f"no cell that answers has saga {saga_id}, and not all do: {told}")
    raise ClientError(f"no saga {saga_id} in {', '.join(cell.name for cell in reach.cells)}")


async def ordered(reach: Reach, order: str, saga_id: str, note: str) -> tuple[str, saga_pb2.Saga]:
    """Pauses, resumes, compensates or retries a saga; returns the saga afterwards. Raises LedgerRefusal."""
    cell, _ = await found(reach, saga_id)
    call, command_id = reach.client.call, new_command_id()
    if order == "retry":
        # Not a command: it leaves no event.
        retried = await call(cell.sagas.RetrySaga, saga_pb2.RetrySagaRequest(saga_id=saga_id), OPERATOR)
        return cell.name, retried.saga
    method, request = ORDERS[order]
    await call(method(cell), request(command_id=command_id, saga_id=saga_id, note=note), OPERATOR)
    reply = await call(cell.sagas.GetSaga, saga_pb2.GetSagaRequest(saga_id=saga_id), OPERATOR)
    return cell.name, reply.saga


async def watched(reach: Reach, saga_id: str) -> AsyncIterator[tuple[str, saga_pb2.WatchSagaResponse]]:
    """Everything that has happened to the saga, then what happens, up to its end. Raises ClientError."""
    cell, _ = await found(reach, saga_id)
    request = saga_pb2.WatchSagaRequest(saga_id=saga_id)
    stream = cell.sagas.WatchSaga(request, metadata=reach.client.access.metadata(OPERATOR))
    try:
        async for news in stream:
            yield cell.name, news
    except aio.AioRpcError as error:
        raise ClientError(f"{cell.name}: {unknown_in(error, request).told}: watch it again") from None
    finally:
        stream.cancel()


def silent_lines(silent: dict[str, str]) -> Sequence[str]:
    return [f"{name} does not answer, its sagas are missing: {told}" for name, told in sorted(silent.items())]
