"""Moving all users off a cell, while the console listens."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import ClassVar

from starlette.requests import Request
from starlette.responses import Response

from cellbook.v1 import router_pb2
from server.cli.client import CellNotListed, Client
from server.console.console import console_of, ledger_of, render, render_text
from server.console.operator.cells import LIVE_EVERY_S
from server.console.operator.jobs import Job
from server.console.pages import get, post
from server.console.serving import NO_CONTENT, BadInput, event_stream, require_confirmed, see, whole_number
from server.console.serving import field as form_field
from server.console.visitor import current_visitor

RATE_MAX = 1_000
EVACUATE = "RouterService.EvacuateCell"
PATH = "/operator/evacuations/{cell}"


@dataclass(slots=True, kw_only=True)
class Evacuation(Job[router_pb2.EvacuateCellResponse]):
    name: ClassVar[str] = "evacuation"
    client: Client
    rate_per_s: int
    last: router_pb2.EvacuateCellResponse = field(default_factory=router_pb2.EvacuateCellResponse)

    def stream(self) -> AsyncGenerator[router_pb2.EvacuateCellResponse, None]:
        request = router_pb2.EvacuateCellRequest(name=self.cell, rate_per_s=self.rate_per_s)
        return self.client.items(self.client.router.EvacuateCell, request)

    def take(self, reply: router_pb2.EvacuateCellResponse) -> None:
        self.last = reply


@get(PATH, EVACUATE)
async def evacuation(request: Request) -> Response:
    cell = await _listed(request, count_users=True)
    job = console_of(request).evacuations.by_cell.get(cell.name)
    return render(request, "operator/evacuation.html", cell=cell, job=job, rate_max=RATE_MAX)


@get(f"{PATH}/live", EVACUATE)
async def live(request: Request) -> Response:
    """How far the evacuation is, until it ends."""
    job = console_of(request).evacuations.by_cell.get(request.path_params["cell"])
    if job is None or not job.running:
        # Nothing more happens: the browser loads the page again.
        return Response(status_code=NO_CONTENT)

    async def states() -> AsyncIterator[str]:
        while True:
            yield render_text(request, "operator/evacuation_live.html", job=job)
            if not job.running:
                return
            await asyncio.sleep(LIVE_EVERY_S)

    return event_stream(request, states())


@post(PATH, EVACUATE)
async def begin(request: Request) -> Response:
    await require_confirmed(request)
    rate = whole_number(await form_field(request, "rate"), "number of moves a second")
    if not 1 <= rate <= RATE_MAX:
        raise BadInput(f"{rate} moves a second: expected 1 to {RATE_MAX:,}")
    cell, client = await _listed(request), ledger_of(request).client
    by = str(current_visitor().principal)
    console_of(request).evacuations.start(Evacuation(cell=cell.name, by=by, client=client, rate_per_s=rate))
    return see(_path(cell.name))


@post(f"{PATH}/stop", EVACUATE)
async def stop(request: Request) -> Response:
    """Moves that are under way go on to their end."""
    cell = request.path_params["cell"]
    job = console_of(request).evacuations.by_cell.get(cell)
    if job is not None:
        await job.stop(str(current_visitor().principal))
    return see(_path(cell))


async def _listed(request: Request, *, count_users: bool = False) -> router_pb2.Cell:
    """Raises CellNotListed."""
    name = request.path_params["cell"]
    for cell in (await ledger_of(request).listed(count_users=count_users)).cells:
        if cell.name == name:
            return cell
    raise CellNotListed(f"the router lists no cell {name!r}")


def _path(cell: str) -> str:
    return PATH.format(cell=cell)
