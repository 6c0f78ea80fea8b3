"""Cells: their processes, what is between them, and what an operator tells the router of them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple

from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import Response

from cellbook.v1 import router_pb2
from server.cli.client import CellNotListed, ClientError, LedgerRefusal, new_command_id
from server.console.console import console_of, ledger_of, render, render_text
from server.console.operator.charts import HEIGHT, WIDTH, Chart, chart
from server.console.operator.status import KEPT_S, CellState, Courses, links_of, look
from server.console.pages import get, post
from server.console.serving import BadInput, event_stream, field, require_confirmed, see, whole_number

LIVE_EVERY_S = 2.0
WEIGHT_DIGITS_MAX = 7
STATUS = "OperationsService.GetCellStatus"


class Order(NamedTuple):
    """To the router, about a cell that is not in state `reaches` yet."""

    rpc: str
    request: type[Message]
    title: str
    effect: str
    reaches: "router_pb2.CellState.ValueType"


ORDERS = {
    "drain": Order(
        "DrainCell",
        router_pb2.DrainCellRequest,
        "Drain",
        "It gets no new users. Its users stay.",
        router_pb2.CELL_STATE_DRAINING,
    ),
    "undrain": Order(
        "UndrainCell",
        router_pb2.UndrainCellRequest,
        "Undrain",
        "It is called, and gets new users again.",
        router_pb2.CELL_STATE_ACTIVE,
    ),
    "down": Order(
        "MarkCellDown",
        router_pb2.MarkCellDownRequest,
        "Mark down",
        "The router refuses all calls for its users at once.",
        router_pb2.CELL_STATE_DOWN,
    ),
}


@get("/operator/cells", STATUS, title="Cells")
async def cells(request: Request) -> Response:
    return render(request, "operator/cells.html", **await _overview(request))


@get("/operator/live", STATUS)
async def live(request: Request) -> Response:
    """The same, again and again. If the router does not answer any longer, the browser connects again."""
    overview = await _overview(request)

    async def overviews() -> AsyncIterator[str]:
        nonlocal overview
        with suppress(ClientError, LedgerRefusal):
            while True:
                yield render_text(request, "operator/cells_live.html", **overview)
                await asyncio.sleep(LIVE_EVERY_S)
                overview = await _overview(request)

    return event_stream(request, overviews())


async def _overview(request: Request) -> dict[str, Any]:
    found, courses = await look(ledger_of(request)), console_of(request).courses
    courses.note(found)
    return {
        "cells": found,
        "links": list(links_of(found)),
        "charts": {cell.name: _charts(courses, cell) for cell in found},
        "box": (WIDTH, HEIGHT),
    }


def _charts(courses: Courses, cell: CellState) -> tuple[Chart, Chart]:
    return (
        chart("events a second", courses.events_per_s(cell.name), KEPT_S),
        chart("waiting commands", courses.queued(cell.name), KEPT_S),
    )


@get("/operator/cells/{cell}", STATUS)
async def cell(request: Request) -> Response:
    name = request.path_params["cell"]
    found = await look(ledger_of(request), cell=name)
    if not found:
        raise CellNotListed(f"the router lists no cell {name!r}")
    return render(
        request,
        "operator/cell.html",
        cell=found[0],
        orders=ORDERS,
        done=await field(request, "done"),
        command_id=new_command_id(),
    )


@post("/operator/cells/{cell}/weight", "RouterService.SetCellWeight")
async def set_weight(request: Request) -> Response:
    name, text = request.path_params["cell"], await field(request, "weight")
    weight = whole_number(text, "weight", digits_max=WEIGHT_DIGITS_MAX)
    return await _ordered(
        request, "SetCellWeight", router_pb2.SetCellWeightRequest(name=name, weight=weight), name, "weight"
    )


@post("/operator/cells/{cell}/{order}", *(f"RouterService.{order.rpc}" for order in ORDERS.values()))
async def tell(request: Request) -> Response:
    """Drain, undrain, down."""
    order, name = request.path_params["order"], request.path_params["cell"]
    if order not in ORDERS:
        raise BadInput(f"{order!r} is no order: expected one of {', '.join(ORDERS)}")
    rpc, kind = ORDERS[order].rpc, ORDERS[order].request
    return await _ordered(request, rpc, kind(name=name), name, order)


async def _ordered(request: Request, rpc: str, order: Message, name: str, done: str) -> Response:
    await require_confirmed(request)
    # From the form: a form that is sent twice is one command.
    order.command_id = await field(request, "command_id")  # type: ignore[attr-defined]
    client = ledger_of(request).client
    method: Callable[..., Awaitable[Message]] = getattr(client.router, rpc)
    await client.ask_router(method, order)
    return see(f"/operator/cells/{name}?done={done}")
