"""The command line of `cellbook router`: cells, homes of users, and operators' changes to cells."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import grpc
import typer
from google.protobuf.message import Message
from grpc import aio
from rich.table import Table

from cellbook.v1 import router_pb2 as pb
from server.cli import moving, report
from server.cli.access import PLAIN, Access, chosen_access
from server.cli.client import Client, ClientError, LedgerRefusal, new_command_id, unknown_in
from server.cli.ending import run
from server.cli.options import HERE, json_option, router_option
from server.cli.reach import ANSWER_S, OPERATOR
from server.cli.screen import literal

if TYPE_CHECKING:
    from cellbook.v1.router_pb2_grpc import RouterServiceAsyncStub


Reply = TypeVar("Reply", bound=Message)
Method = Callable[..., Awaitable[Reply]]

app = typer.Typer(
    help="Show cells and users' homes; add, drain and remove cells.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

User = Annotated[str, typer.Argument(metavar="USER", help="The user's id.")]
Name = Annotated[str, typer.Argument(metavar="CELL", help="The cell's name.")]
Router = Annotated[str, router_option("The router to ask.")]
Json = Annotated[bool, json_option("Print JSON instead of a table.")]


@app.command()
def cells(router: Router = HERE, as_json: Json = False) -> None:
    """List the cells, their state, and the number of users at home in each."""
    _ask(router, lambda asked: _tell_cells(asked, as_json=as_json))


@app.command()
def watch(router: Router = HERE, as_json: Json = False) -> None:
    """Show the cells, and show them again whenever one of them changes."""
    _ask(router, lambda asked: _watch(asked, as_json=as_json))


@app.command()
def resolve(
    user: Annotated[str, typer.Argument(metavar="USER", help="The user's id.")],
    router: Router = HERE,
    as_json: Json = False,
) -> None:
    """Show the home cell of a user."""

    async def work(asked: Asked) -> None:
        answer = await asked.once(asked.stub.ResolveUser, pb.ResolveUserRequest(user_id=user))
        home = {
            "user_id": answer.home.user_id,
            "cell": answer.home.cell,
            "epoch": answer.home.epoch,
            "residency": answer.home.region,
            "endpoints": list(answer.cell.endpoints),
        }
        if as_json:
            print(json.dumps(home, indent=2))
            return
        report.line(home_line(answer))

    _ask(router, work)


@app.command()
def add(  # noqa: PLR0917 - as many options
    name: Name,
    region: Annotated[str, typer.Option("--region", help='Where it keeps its data: "eu". Never changes.')],
    endpoint: Annotated[
        list[str],
        typer.Option("--endpoint", metavar="HOST:PORT", help="The address of one of its processes. May be repeated."),
    ],
    weight: Annotated[
        int | None, typer.Option("--weight", min=0, help="Share of the region's new users. Default: 100.")
    ] = None,
    bring_back: Annotated[bool, typer.Option("--bring-back", help="Bring back a removed cell.")] = False,
    router: Router = HERE,
    as_json: Json = False,
) -> None:
    """Add a cell at run time, or change the endpoints of an existing one."""
    request = pb.RegisterCellRequest(name=name, region=region, endpoints=endpoint, weight=weight, bring_back=bring_back)
    _operate(router, lambda stub: stub.RegisterCell, request, as_json=as_json)


@app.command("weight")
def set_weight(
    name: Name,
    weight: Annotated[int, typer.Argument(metavar="WEIGHT", min=0, help="0: no new users.")],
    router: Router = HERE,
    as_json: Json = False,
) -> None:
    """Set a cell's share of its region's new users."""
    request = pb.SetCellWeightRequest(name=name, weight=weight)
    _operate(router, lambda stub: stub.SetCellWeight, request, as_json=as_json)


@app.command()
def drain(
    name: Name,
    rate: Annotated[float, typer.Option("--rate", min=0.01, max=1_000, help="Moves begun a second, at most.")] = 10.0,
    stay: Annotated[bool, typer.Option("--stay", help="Let its users stay.")] = False,
    router: Router = HERE,
    as_json: Json = False,
) -> None:
    """Place no new users in a cell, and move its users to other cells of their region.

    If it is interrupted, by the router, a cell or Ctrl-C, run it again: it continues with the remaining users.
    """
    request = pb.DrainCellRequest(name=name)
    if stay:
        _operate(router, lambda stub: stub.DrainCell, request, as_json=as_json)
        return

    async def work(asked: Asked) -> None:
        await asked.once(asked.stub.DrainCell, request)
        await moving.evacuate(asked, name, rate, as_json=as_json)

    _ask(router, work)


@app.command()
def move(
    user: User,
    name: Name,
    region: Annotated[
        str | None,
        typer.Option("--region", help='The residency from then on: "eu", or "" for any. Default: unchanged.'),
    ] = None,
    router: Router = HERE,
    as_json: Json = False,
) -> None:
    """Move a user to another cell, with balance, holds and history."""
    _ask(router, lambda asked: moving.move(asked, user, name, region, as_json=as_json))


@app.command()
def moved(user: User, router: Router = HERE, as_json: Json = False) -> None:
    """Show the progress of a user's last move."""
    _ask(router, lambda asked: moving.moved(asked, user, as_json=as_json))


@app.command()
def undrain(name: Name, router: Router = HERE, as_json: Json = False) -> None:
    """Take `drain` or `down` back."""
    _operate(router, lambda stub: stub.UndrainCell, pb.UndrainCellRequest(name=name), as_json=as_json)


@app.command()
def down(name: Name, router: Router = HERE, as_json: Json = False) -> None:
    """Mark a cell as not to be called: it gets no new users, and the router sends it no calls."""
    _operate(router, lambda stub: stub.MarkCellDown, pb.MarkCellDownRequest(name=name), as_json=as_json)


@app.command()
def remove(name: Name, router: Router = HERE, as_json: Json = False) -> None:
    """Remove a cell that is drained or down and has no users; `add --bring-back` restores it."""
    _operate(router, lambda stub: stub.RemoveCell, pb.RemoveCellRequest(name=name), as_json=as_json)


Operation = (
    pb.RegisterCellRequest
    | pb.SetCellWeightRequest
    | pb.DrainCellRequest
    | pb.MarkCellDownRequest
    | pb.UndrainCellRequest
    | pb.RemoveCellRequest
)


class Asked:
    """A router, as an operator calls it."""

    def __init__(self, address: str, stub: "RouterServiceAsyncStub", access: Access = PLAIN) -> None:
        self.address = address
        self.stub = stub
        self.metadata = access.metadata(OPERATOR)

    async def once(self, method: Method[Reply], request: Message, *, timeout_s: float = ANSWER_S) -> Reply:
        """Raises LedgerRefusal for a definite refusal, else ClientError."""
        try:
            return await method(request, timeout=timeout_s, metadata=self.metadata)
        except aio.AioRpcError as error:
            raise self.failure(error, request) from None

    async def stream(self, method: Callable[..., Any], request: Message) -> AsyncGenerator[Any, None]:
        """Every message of a server's stream. Raises as `once`."""
        call = method(request, metadata=self.metadata)
        try:
            async for message in call:
                yield message
        except aio.AioRpcError as error:
            raise self.failure(error, request) from None
        finally:
            call.cancel()

    def failure(self, error: aio.AioRpcError, request: Message) -> ClientError | LedgerRefusal:
        try:
            told = unknown_in(error, request).told
        except (ClientError, LedgerRefusal) as definite:
            return definite
        if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
            return ClientError(f"the router at {self.address} does not answer, or cannot do it now: {told}")
        return ClientError(told)


@asynccontextmanager
async def asking(router: str) -> AsyncIterator[Asked]:
    async with Client(router, chosen_access()) as client:
        yield Asked(router, client.router, client.access)


def _ask(router: str, work: Callable[[Asked], Awaitable[None]]) -> None:
    async def asked() -> None:
        async with asking(router) as router_:
            await work(router_)

    run(asked())


def _operate(
    router: str, method: Callable[["RouterServiceAsyncStub"], Method[Message]], request: Operation, *, as_json: bool
) -> None:
    """Executes it, once, under an id of its own, and shows the cells afterwards."""
    request.command_id = new_command_id()

    async def work(asked: Asked) -> None:
        await asked.once(method(asked.stub), request)
        await _tell_cells(asked, as_json=as_json)

    _ask(router, work)


async def _tell_cells(asked: Asked, *, as_json: bool) -> None:
    listed = await asked.once(asked.stub.ListCells, pb.ListCellsRequest())
    if not listed.read_only:
        listed = await asked.once(asked.stub.ListCells, pb.ListCellsRequest(count_users=True))
    tell(listed, as_json=as_json)


async def _watch(asked: Asked, *, as_json: bool) -> None:
    async with aclosing(asked.stream(asked.stub.WatchTopology, pb.WatchTopologyRequest())) as pictures:
        async for picture in pictures:
            tell(picture, as_json=as_json)
            if not as_json:
                report.line("")
    raise ClientError(f"the router at {asked.address} has ended")


def home_line(answer: pb.ResolveUserResponse) -> str:
    home, where = answer.home, ", ".join(answer.cell.endpoints)
    bound = f"bound to region {home.region}" if home.region else "bound to no region"
    return literal(f"{home.user_id}: {home.cell} ({where}), epoch {home.epoch}, {bound}")


def tell(picture: pb.ListCellsResponse | pb.WatchTopologyResponse, *, as_json: bool) -> None:
    if as_json:
        cells = [cell_json(cell) for cell in picture.cells]
        content = {"version": picture.version, "read_only": picture.read_only, "cells": cells}
        print(json.dumps(content, indent=None if isinstance(picture, pb.WatchTopologyResponse) else 2), flush=True)
        return
    with report.stdout() as console:
        console.print(cells_table(picture.cells))
        if picture.read_only:
            console.print(
                "[yellow]The directory's database is away: users are resolved from the last known good copy, "
                "and nobody is registered.[/yellow]"
            )


def cell_json(cell: pb.Cell) -> dict[str, Any]:
    content: dict[str, Any] = {
        "name": cell.name,
        "region": cell.region,
        "state": state_text(cell),
        "health": health_text(cell),
        "weight": cell.weight,
        "endpoints": list(cell.endpoints),
    }
    return {**content, "users": cell.users} if cell.HasField("users") else content


def cells_table(cells: Iterable[pb.Cell]) -> Table:
    cells = list(cells)
    counted = any(cell.HasField("users") for cell in cells)
    headings = ("cell", "region", "state", "health", "weight", *(["users"] if counted else []), "endpoints")
    table = report.table(*headings, right=(4, 5) if counted else (4,))
    for column in table.columns[:-1]:
        column.no_wrap = True
    for cell in cells:
        users = [f"{cell.users:,}"] if counted else []
        state = f"[{_COLOURS[cell.state]}]{state_text(cell)}[/]"
        health = f"[{_HEALTH_COLOURS[cell.health]}]{health_text(cell)}[/]"
        endpoints = literal(", ".join(cell.endpoints))
        table.add_row(literal(cell.name), literal(cell.region), state, health, f"{cell.weight:,}", *users, endpoints)
    return table


_COLOURS = {
    pb.CELL_STATE_UNSPECIFIED: "default",
    pb.CELL_STATE_ACTIVE: "green",
    pb.CELL_STATE_DRAINING: "yellow",
    pb.CELL_STATE_DOWN: "red",
}
_HEALTH_COLOURS = {
    pb.CELL_HEALTH_UNSPECIFIED: "dim",
    pb.CELL_HEALTH_SERVING: "green",
    pb.CELL_HEALTH_NOT_SERVING: "red",
}


def state_text(cell: pb.Cell) -> str:
    return pb.CellState.Name(cell.state).removeprefix("CELL_STATE_").lower()


def health_text(cell: pb.Cell) -> str:
    """The result of the probes, or that the cell has not been probed yet."""
    name = pb.CellHealth.Name(cell.health).removeprefix("CELL_HEALTH_").lower().replace("_", " ")
    return "unknown" if cell.health == pb.CELL_HEALTH_UNSPECIFIED else name
