"""One box for any id or name: it leads to the page of what has it."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import NamedTuple
from uuid import UUID

from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import Response

from cellbook.v1 import auction_pb2, ledger_pb2, saga_pb2
from server.cli.client import CellStubs, ClientError, LedgerRefusal
from server.cli.reach import Reach
from server.console.console import ledger_of, render
from server.console.pages import get
from server.console.serving import BadInput, field, see

# Without these an id leads nowhere.
NEEDS = ("RouterService.ResolveUser", "LedgerService.GetAccount", "SagaService.GetSaga", "EventService.ListUserEvents")
NAME = re.compile(r"cells/([a-z0-9-]{1,32})/(assets|auctions)/([0-9A-Fa-f-]{36})")


class Lookup(NamedTuple):
    """Of a kind of thing that is in one cell: the call that finds it there, and where its pages are."""

    method: Callable[[CellStubs], Callable[..., Awaitable[Message]]]
    # By the cell's name and the id.
    request: Callable[[str, str], Message]
    pages: str


LOOKUPS = (
    Lookup(
        lambda cell: cell.auctions.GetAuction,
        lambda cell, wanted: auction_pb2.GetAuctionRequest(name=f"cells/{cell}/auctions/{wanted}"),
        "/support/auctions",
    ),
    Lookup(
        lambda cell: cell.auctions.GetAsset,
        lambda cell, wanted: auction_pb2.GetAssetRequest(name=f"cells/{cell}/assets/{wanted}"),
        "/support/assets",
    ),
    Lookup(lambda cell: cell.sagas.GetSaga, lambda _, wanted: saga_pb2.GetSagaRequest(saga_id=wanted), "/sagas"),
    Lookup(
        lambda cell: cell.ledger.GetCommand,
        lambda _, wanted: ledger_pb2.GetCommandRequest(command_id=wanted),
        "/support/commands",
    ),
)


@get("/support", *NEEDS, title="Find")
async def find(request: Request) -> Response:
    wanted = await field(request, "q")
    if not wanted:
        return render(request, "support/find.html", wanted="", silent=())
    named = NAME.fullmatch(wanted)
    if named is not None:
        return see(f"/support/{named[2]}/{named[1]}/{named[3]}")
    return await _by_id(request, wanted)


async def _by_id(request: Request, text: str) -> Response:
    try:
        wanted = str(UUID(text))
    except ValueError:
        expected = "an id (a UUID), cells/CELL/auctions/UUID or cells/CELL/assets/UUID"
        raise BadInput(f"{text!r} is no id and no name: expected {expected}") from None
    ledger = ledger_of(request)
    reach = await ledger.reach()

    async def user() -> str:
        await ledger.home_of(wanted)
        return f"/support/users/{wanted}"

    lookups = (_in_cells(reach, lookup, wanted) for lookup in LOOKUPS)
    found = await asyncio.gather(user(), *lookups, return_exceptions=True)
    paths = [path for path in found if isinstance(path, str) and path]
    if paths:
        return see(paths[0])
    for error in found:
        if isinstance(error, BaseException) and not isinstance(error, LedgerRefusal | ClientError):
            raise error
    silent = [str(error) for error in found if isinstance(error, ClientError)]
    return render(request, "support/find.html", status=404, wanted=wanted, silent=silent)


async def _in_cells(reach: Reach, lookup: Lookup, wanted: str) -> str:
    """The path with the first cell that has it; empty: no cell does. Raises ClientError if some do not answer."""

    async def has(cell: CellStubs) -> bool:
        try:
            await reach.client.once(lookup.method(cell), lookup.request(cell.name, wanted), at=cell.name)
        except LedgerRefusal:
            return False
        return True

    answers = await asyncio.gather(*map(has, reach.cells), return_exceptions=True)
    for cell, answer in zip(reach.cells, answers, strict=True):
        if answer is True:
            return f"{lookup.pages}/{cell.name}/{wanted}"
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return ""
