"""Calls to all cells of a router on behalf of an operator: a cell that does not answer is named, never left out."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import grpc
from google.protobuf.message import Message
from grpc import aio

from cellbook.v1 import router_pb2
from server.cli.access import PLAIN, Access
from server.cli.client import CellNotListed, CellStubs, Client, ClientError, LedgerRefusal, unknown_in

OPERATOR = "operator/cellbook"
# An operator is waiting at a terminal.
ANSWER_S = 5.0

Reply = TypeVar("Reply", bound=Message)


@dataclass(frozen=True, slots=True)
class Answers(Generic[Reply]):
    """The result of each cell by name: an answer, a refusal, or the reason why there is none."""

    given: dict[str, Reply] = field(default_factory=dict)
    refused: dict[str, LedgerRefusal] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    client: Client
    # The cells to be asked.
    cells: Sequence[CellStubs]
    # All cells that the router lists.
    listed: Sequence[str]

    def require_listed(self, cell: str) -> None:
        """Raises CellNotListed."""
        if cell not in self.listed:
            raise CellNotListed(f"the router lists no cell {cell!r}, only {', '.join(self.listed) or 'none'}")

    async def ask_all(
        self, method: Callable[[CellStubs], Callable[..., Awaitable[Reply]]], request: Message
    ) -> Answers[Reply]:
        """Asks each cell once, concurrently. Raises ClientError if one denies it."""
        answers: Answers[Reply] = Answers()

        async def ask(cell: CellStubs) -> None:
            try:
                metadata = self.client.access.metadata(OPERATOR)
                answers.given[cell.name] = await method(cell)(request, timeout=ANSWER_S, metadata=metadata)
            except aio.AioRpcError as error:
                try:
                    answers.silent[cell.name] = unknown_in(error, request).told
                except LedgerRefusal as refusal:
                    answers.refused[cell.name] = refusal

        await asyncio.gather(*map(ask, self.cells))
        return answers


@asynccontextmanager
async def reached(router: str, access: Access, cell: str = "") -> AsyncIterator[Reach]:
    """All cells that the router at `router` lists, or only the one named `cell`. Raises ClientError, CellNotListed."""
    async with Client(router, access) as client:
        request, metadata = router_pb2.ListCellsRequest(), access.metadata(OPERATOR)
        try:
            reply = await client.router.ListCells(request, timeout=ANSWER_S, metadata=metadata)
        except aio.AioRpcError as error:
            if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                message = f"no router answers at {router} ({error.details()}): {_advice(access)}"
            else:
                message = f"{router}: {error.code().name}: {error.details()}"
            raise ClientError(message) from None
        listed = {each.name: each for each in reply.cells if each.endpoints}
        wanted = [each for name, each in sorted(listed.items()) if cell in {"", name}]
        stubs = [client.cell(name=each.name, region=each.region, address="+".join(each.endpoints)) for each in wanted]
        reach = Reach(client=client, cells=stubs, listed=sorted(listed))
        if cell:
            reach.require_listed(cell)
        yield reach


def _advice(access: Access) -> str:
    """A listener with TLS closes plain text connections without an explanation."""
    advice = "name another one with --router HOST:PORT"
    return f"{advice}, or get in by cellbook --keys DIR if it runs with --secure" if access is PLAIN else advice
