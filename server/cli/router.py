"""The command line of `cellbook router`: cells, homes of users, moves, and operators' changes to cells."""

from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any

import typer
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table

from cellbook.v1 import router_pb2 as pb
from server.cli import report
from server.cli.client import Client, ClientError, new_command_id
from server.cli.command import for_router
from server.cli.screen import literal
from server.cli.texts import enum_text

MOVE_S = 20.0

app = typer.Typer(
    help="Show cells and users' homes; add, drain and remove cells.", no_args_is_help=True, rich_markup_mode=None
)

User = Annotated[str, typer.Argument(metavar="USER", help="The user's id.")]
Name = Annotated[str, typer.Argument(metavar="CELL", help="The cell's name.")]


@app.command()
@for_router
async def cells(client: Client) -> None:
    """List the cells, their state, and the number of users at home in each."""
    await _show_cells(client)


async def _show_cells(client: Client) -> None:
    listed = await client.ask_router(client.router.ListCells, pb.ListCellsRequest())
    if not listed.read_only:
        listed = await client.ask_router(client.router.ListCells, pb.ListCellsRequest(count_users=True))
    report.show(lambda: cells_json(listed), lambda console: tell_cells(console, listed))


@app.command()
@for_router
async def watch(client: Client) -> None:
    """Show the cells, and show them again whenever one of them changes."""
    async with aclosing(client.items(client.router.WatchTopology, pb.WatchTopologyRequest())) as pictures:
        async for picture in pictures:
            report.show_line(cells_json(picture), partial(tell_cells, picture=picture))
            if not report.AS_JSON.get():
                report.line("")
    raise ClientError(f"the router at {client.address} has ended")


@app.command()
@for_router
async def resolve(client: Client, user: User) -> None:
    """Show the home cell of a user."""
    answer = await client.ask_router(client.router.ResolveUser, pb.ResolveUserRequest(user_id=user))
    home = {
        "user_id": answer.home.user_id,
        "cell": answer.home.cell,
        "epoch": answer.home.epoch,
        "residency": answer.home.region,
        "endpoints": list(answer.cell.endpoints),
    }
    report.show(lambda: home, home_line(answer))


# --- operators' changes ---------------------------------------------------------------------------------------------


Operation = (
    pb.RegisterCellRequest
    | pb.SetCellWeightRequest
    | pb.DrainCellRequest
    | pb.MarkCellDownRequest
    | pb.UndrainCellRequest
    | pb.RemoveCellRequest
)


async def _operate(client: Client, method: Callable[..., Awaitable[Message]], request: Operation) -> None:
    """Executes it, once, under an id of its own, and shows the cells afterwards."""
    request.command_id = new_command_id()
    await client.ask_router(method, request)
    await _show_cells(client)


@app.command()
@for_router
async def add(  # noqa: PLR0917 - as many options
    client: Client,
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
) -> None:
    """Add a cell at run time, or change the endpoints of an existing one."""
    request = pb.RegisterCellRequest(name=name, region=region, endpoints=endpoint, weight=weight, bring_back=bring_back)
    await _operate(client, client.router.RegisterCell, request)


@app.command("weight")
@for_router
async def set_weight(
    client: Client, name: Name, weight: Annotated[int, typer.Argument(metavar="WEIGHT", min=0, help="0: no new users.")]
) -> None:
    """Set a cell's share of its region's new users."""
    await _operate(client, client.router.SetCellWeight, pb.SetCellWeightRequest(name=name, weight=weight))


@app.command()
@for_router
async def drain(
    client: Client,
    name: Name,
    rate: Annotated[float, typer.Option("--rate", min=0.01, max=1_000, help="Moves begun a second, at most.")] = 10.0,
    stay: Annotated[bool, typer.Option("--stay", help="Let its users stay.")] = False,
) -> None:
    """Place no new users in a cell, and move its users to other cells of their region.

    If it is interrupted, by the router, a cell or Ctrl-C, run it again: it continues with the remaining users.
    """
    request = pb.DrainCellRequest(name=name)
    if stay:
        await _operate(client, client.router.DrainCell, request)
        return
    await client.ask_router(client.router.DrainCell, request)
    await evacuate(client, name, rate)


@app.command()
@for_router
async def undrain(client: Client, name: Name) -> None:
    """Take `drain` or `down` back."""
    await _operate(client, client.router.UndrainCell, pb.UndrainCellRequest(name=name))


@app.command()
@for_router
async def down(client: Client, name: Name) -> None:
    """Mark a cell as not to be called: it gets no new users, and the router sends it no calls."""
    await _operate(client, client.router.MarkCellDown, pb.MarkCellDownRequest(name=name))


@app.command()
@for_router
async def remove(client: Client, name: Name) -> None:
    """Remove a cell that is drained or down and has no users; `add --bring-back` restores it."""
    await _operate(client, client.router.RemoveCell, pb.RemoveCellRequest(name=name))


# --- moves ----------------------------------------------------------------------------------------------------------


@app.command()
@for_router
async def move(
    client: Client,
    user: User,
    name: Name,
    region: Annotated[
        str | None,
        typer.Option("--region", help='The residency from then on: "eu", or "" for any. Default: unchanged.'),
    ] = None,
) -> None:
    """Move a user to another cell, with balance, holds and history."""
    # A move still under way counts as success: `moved` shows its end.
    request = pb.MoveUserRequest(command_id=new_command_id(), user_id=user, cell=name, region=region)
    found = (await client.ask_router(client.router.MoveUser, request, timeout_s=MOVE_S)).move
    report.show(lambda: move_json(found), move_line(found))


@app.command()
@for_router
async def moved(client: Client, user: User) -> None:
    """Show the progress of a user's last move."""
    found = (await client.ask_router(client.router.GetMove, pb.GetMoveRequest(user_id=user))).move
    report.show(lambda: move_json(found), move_line(found))


async def evacuate(client: Client, cell: str, rate_per_s: float) -> None:
    """Raises ClientError if users are left there."""
    last = pb.EvacuateCellResponse()
    request = pb.EvacuateCellRequest(name=cell, rate_per_s=rate_per_s)
    async with aclosing(client.items(client.router.EvacuateCell, request)) as progresses:
        async for progress in progresses:
            if report.AS_JSON.get() or progress != last:
                slowest = f"; {move_line(progress.slowest)}" if progress.HasField("slowest") else ""
                counts = f"{progress.moved:,} moved, {progress.failed:,} failed, {progress.left:,} left"
                report.show_line(_progress_json(progress), f"{counts} in {literal(cell)}{slowest}")
            last = progress
    if last.left:
        problem = f": {last.problem}" if last.problem else ""
        advice = f"mend that and drain it again to go on, or take it back by cellbook router undrain {cell}"
        raise ClientError(f"{last.left:,} users are still at home in {cell}{problem}; {advice}")
    if not report.AS_JSON.get():
        report.line(f"nobody is at home in {literal(cell)} any more")


# --- how it looks ---------------------------------------------------------------------------------------------------


def home_line(answer: pb.ResolveUserResponse) -> str:
    home, where = answer.home, ", ".join(answer.cell.endpoints)
    bound = f"bound to region {home.region}" if home.region else "bound to no region"
    return literal(f"{home.user_id}: {home.cell} ({where}), epoch {home.epoch}, {bound}")


def move_json(found: pb.Move) -> dict[str, Any]:
    names = ("user_id", "from_cell", "to_cell", "state", "saga_id", "leg", "epoch", "problem")
    content = {name: getattr(found, name) for name in names}
    return {**content, "state": enum_text(found, "state"), **_copied_json(found)}


def move_line(found: pb.Move) -> str:
    at = f", at {found.leg}" if found.leg else ""
    if found.total_events:
        at += f", {found.copied_events:,} of {found.total_events:,} events copied, {found.copied_bytes / 1e6:,.1f} MB"
    saga = f", saga {found.saga_id} of {found.from_cell}" if found.saga_id else ""
    problem = f": {found.problem}" if found.problem else ""
    state = enum_text(found, "state")
    return literal(
        f"{found.user_id}: {found.from_cell} to {found.to_cell}, {state}{at}, epoch {found.epoch}{saga}{problem}"
    )


def _copied_json(found: pb.Move) -> dict[str, Any]:
    phase = enum_text(found, "phase").replace(" ", "_") if found.phase else ""
    names = ("copied_events", "total_events", "copied_bytes")
    return {"phase": phase, **{name: getattr(found, name) for name in names}}


def _progress_json(progress: pb.EvacuateCellResponse) -> dict[str, Any]:
    content = {name: getattr(progress, name) for name in ("moved", "failed", "left", "problem", "done")}
    slowest = {"user_id": progress.slowest.user_id, **_copied_json(progress.slowest)}
    return {**content, "slowest": slowest if progress.HasField("slowest") else None}


def cells_json(picture: pb.ListCellsResponse | pb.WatchTopologyResponse) -> dict[str, Any]:
    cells = [cell_json(cell) for cell in picture.cells]
    return {"version": picture.version, "read_only": picture.read_only, "cells": cells}


def cell_json(cell: pb.Cell) -> dict[str, Any]:
    content: dict[str, Any] = {
        "name": cell.name,
        "region": cell.region,
        "state": enum_text(cell, "state"),
        "health": health_text(cell),
        "weight": cell.weight,
        "endpoints": list(cell.endpoints),
    }
    return {**content, "users": cell.users} if cell.HasField("users") else content


def tell_cells(console: Console, picture: pb.ListCellsResponse | pb.WatchTopologyResponse) -> None:
    console.print(cells_table(picture.cells))
    if picture.read_only:
        console.print(
            "[yellow]The directory's database is away: users are resolved from the last known good copy, "
            "and nobody is registered.[/yellow]"
        )


def cells_table(cells: Iterable[pb.Cell]) -> Table:
    cells = list(cells)
    users = ["users"] * any(cell.HasField("users") for cell in cells)
    one_line = ("cell", "region", "state", "health", "weight", *users)
    made = report.table(*one_line, "endpoints", right={"weight", "users"}, no_wrap=one_line)
    for cell in cells:
        state = f"[{_COLOURS[cell.state]}]{enum_text(cell, 'state')}[/]"
        health = f"[{_HEALTH_COLOURS[cell.health]}]{health_text(cell)}[/]"
        counts = [f"{cell.weight:,}", *([f"{cell.users:,}"] if users else [])]
        endpoints = literal(", ".join(cell.endpoints))
        made.add_row(literal(cell.name), literal(cell.region), state, health, *counts, endpoints)
    return made


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


def health_text(cell: pb.Cell) -> str:
    """The result of the probes, or that the cell has not been probed yet."""
    probed = cell.health != pb.CELL_HEALTH_UNSPECIFIED
    return enum_text(cell, "health") if probed else "unknown"
