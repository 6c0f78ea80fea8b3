"""The calls behind `cellbook audit`."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from google.protobuf.message import Message
from grpc import aio

from server.cli.access import chosen_access
from server.cli.client import CellStubs, ClientError, unknown_in
from server.cli.reach import Reach

AUDITOR = "auditor/cellbook"
# Answers may cover many cells or many events.
ANSWER_S = 30.0

Reply = TypeVar("Reply", bound=Message)


async def answer_of(cell: CellStubs, method: Callable[..., Awaitable[Reply]], request: Message) -> Reply:
    """The cell's answer. Raises ClientError, LedgerRefusal."""
    try:
        return await method(request, timeout=ANSWER_S, metadata=chosen_access().metadata(AUDITOR))
    except aio.AioRpcError as error:
        raise ClientError(f"{cell.name}: {unknown_in(error, request).told}") from error


async def first_answer(
    reach: Reach, method: Callable[[CellStubs], Callable[..., Awaitable[Reply]]], request: Message
) -> tuple[str, Reply]:
    """The answer of the first cell in order that answers, with its name; for requests that any cell can answer.

    Raises:
        LedgerRefusal: the cell refuses.
        ClientError: no cell answers.
    """
    silent = []
    for cell in reach.cells:
        try:
            return cell.name, await answer_of(cell, method(cell), request)
        except ClientError as error:
            silent.append(str(error))
    raise ClientError("; ".join(silent) or "there is no cell to ask")
