"""Calls to all cells of a router on behalf of an operator: a cell that does not answer is named, never left out."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import grpc
from google.protobuf.message import Message
from grpc import aio

from cellbook.v1 import router_pb2
from server.cli.access import PLAIN, Access
from server.cli.client import (
    ANSWER_S,
    AUDITOR,
    OPERATOR,
    CellNotListed,
    CellStubs,
    Client,
    ClientError,
    LedgerRefusal,
    NoAnswer,
    status_text,
)

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

    @property
    def names(self) -> str:
        return ", ".join(cell.name for cell in self.cells)

    @property
    def only(self) -> CellStubs:
        """The cell to ask. Raises ClientError if more than one is possible."""
        if len(self.cells) != 1:
            raise ClientError(f"say which cell, by --cell: {self.names or 'none'}")
        return self.cells[0]

    def named(self, name: str) -> CellStubs:
        """Raises ClientError."""
        for cell in self.cells:
            if cell.name == name:
                return cell
        raise ClientError(f"{name} is not among the cells to ask: {self.names}")

    async def home_of(self, user_id: str) -> CellStubs:
        """The user's home, or the only cell if just one is addressed. Raises ClientError."""
        if len(self.cells) == 1:
            return self.cells[0]
        request = router_pb2.ResolveUserRequest(user_id=user_id)
        return self.named((await self.client.call(self.client.router.ResolveUser, request, AUDITOR)).cell.name)

    async def ask_all(
        self, method: Callable[[CellStubs], Callable[..., Awaitable[Reply]]], request: Message
    ) -> Answers[Reply]:
        """Asks each cell once, concurrently. Raises ClientError if one denies it."""
        answers: Answers[Reply] = Answers()

        async def ask(cell: CellStubs) -> None:
            try:
                answers.given[cell.name] = await self.client.once(method(cell), request)
            except NoAnswer as error:
                answers.silent[cell.name] = str(error)
            except LedgerRefusal as refusal:
                answers.refused[cell.name] = refusal

        await asyncio.gather(*map(ask, self.cells))
        return answers


def reach_of(
    client: Client, listed: Iterable[router_pb2.Cell], stubs: Callable[[router_pb2.Cell], CellStubs], cell: str = ""
) -> Reach:
    """All cells of the router's list that have an address, or only the one named. Raises CellNotListed."""
    known = {each.name: each for each in listed if each.endpoints}
    wanted = [stubs(each) for name, each in sorted(known.items()) if cell in {"", name}]
    reach = Reach(client=client, cells=wanted, listed=sorted(known))
    if cell:
        reach.require_listed(cell)
    return reach


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
            elif error.code() is grpc.StatusCode.UNIMPLEMENTED:
                message = f"{router} is no router, perhaps a cell: name a router with --router HOST:PORT"
            else:
                message = f"{router}: {status_text(error)}"
            raise ClientError(message) from None
        yield reach_of(client, reply.cells, client.cell_of, cell)


def _advice(access: Access) -> str:
    """A listener with TLS closes plain text connections without an explanation."""
    advice = "name another one with --router HOST:PORT"
    return f"{advice}, or get in by cellbook --keys DIR if it runs with --secure" if access is PLAIN else advice
