"""Sagas: the list, one with its legs and history, and what an operator can do with it."""

from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from cellbook.v1 import saga_pb2
from server.cli.client import CellStubs, ClientError, LedgerRefusal, new_command_id
from server.cli.saga.command import KINDS, OPEN_STATES, ORDERS, STATES, found_saga, listed
from server.cli.saga.show import ENDED, current_leg, event_texts, facts, kind_text
from server.cli.texts import enum_text, now_ms
from server.console.console import cell_in, ledger_of, render, render_text
from server.console.pages import get, post
from server.console.serving import NO_CONTENT, BadInput, event_stream, field, id_in, require_reason, see, whole_number

SHOWN = 50
# Read for a page of SHOWN: those that began in the millisecond of the last page's last one are read again.
READ = 500
RETRY = "retry"
GET_SAGA = "SagaService.GetSaga"
ORDERED_BY = ("Retry", "Pause", "Resume", "Compensate")


class Place(NamedTuple):
    """Of a saga in the list, which is by age."""

    start_time_ms: int
    saga_id: str

    def __str__(self) -> str:
        return f"{self.start_time_ms}-{self.saga_id}"


def place_in(text: str) -> Place:
    """Raises BadInput."""
    start, _, saga_id = text.partition("-")
    return Place(whole_number(start, "place in the list") if text else 0, saga_id)


@get("/sagas", "SagaService.ListSagas", title="Sagas")
async def sagas(request: Request) -> Response:
    state, kind = await field(request, "state") or "open", await field(request, "kind")
    cell, marked = await field(request, "cell"), await field(request, "marked")
    after = place_in(await field(request, "after"))
    if state not in {"open", "all", *STATES} or kind not in {"", *KINDS} or marked not in {"", "stuck", "paused"}:
        raise BadInput("there is no such state, kind or mark: choose them in the form")
    reach = await ledger_of(request).reach(cell)
    wanted = saga_pb2.ListSagasRequest(
        states=[STATES[each] for each in (OPEN_STATES if state == "open" else () if state == "all" else (state,))],
        kind=KINDS.get(kind, saga_pb2.SAGA_KIND_UNSPECIFIED),
        started_from_ms=after.start_time_ms,
        stuck=marked == "stuck",
        paused=marked == "paused",
    )
    found = await listed(reach, wanted, READ)
    left = [(name, saga) for name, saga in found.sagas if Place(saga.start_time_ms, saga.saga_id) > after]
    more = found.more or len(left) > SHOWN
    return render(
        request,
        "operator/sagas.html",
        sagas=left[:SHOWN],
        silent=found.silent_lines,
        next=Place(left[:SHOWN][-1][1].start_time_ms, left[:SHOWN][-1][1].saga_id) if more and left else None,
        chosen={"state": state, "kind": kind, "cell": cell, "marked": marked},
        states=["open", *STATES, "all"],
        kinds=["", *KINDS],
        cells=["", *reach.listed],
        current_leg=current_leg,
        kind_text=kind_text,
    )


@get("/sagas/{saga_id}", GET_SAGA)
async def found(request: Request) -> Response:
    """Wherever the saga is driven."""
    saga_id = _saga_id(request)
    cell, _ = await found_saga(await ledger_of(request).reach(), saga_id)
    return see(f"/sagas/{cell.name}/{saga_id}")


@get("/sagas/{cell}/{saga_id}", GET_SAGA)
async def saga(request: Request) -> Response:
    cell = await cell_in(request)
    return render(
        request,
        "operator/saga.html",
        **await _saga(request, cell),
        done=await field(request, "done"),
        command_id=new_command_id(),
    )


@get("/sagas/{cell}/{saga_id}/live", GET_SAGA, "SagaService.WatchSaga")
async def live(request: Request) -> Response:
    """The saga after each of its events and failed attempts, until it ends."""
    cell, saga_id = await cell_in(request), _saga_id(request)
    shown = (await cell.ask(cell.sagas.GetSaga, saga_pb2.GetSagaRequest(saga_id=saga_id))).saga
    if shown.state in ENDED:
        # Nothing more happens: the browser does not connect again.
        return Response(status_code=NO_CONTENT)

    async def states() -> AsyncIterator[str]:
        watched = saga_pb2.WatchSagaRequest(saga_id=saga_id)
        # The browser connects again if the cell does not answer any longer.
        with suppress(ClientError, LedgerRefusal):
            async with aclosing(cell.items(cell.sagas.WatchSaga, watched)) as stream:
                async for news in stream:
                    # The stream begins with the events that the page has.
                    if news.saga.stream_version <= shown.stream_version and news.HasField("event"):
                        continue
                    yield render_text(request, "operator/saga_live.html", **await _saga(request, cell))

    return event_stream(request, states())


async def _saga(request: Request, cell: CellStubs) -> dict[str, Any]:
    reply = await cell.ask(cell.sagas.GetSaga, saga_pb2.GetSagaRequest(saga_id=_saga_id(request)))
    # With links, and times in the visitor's zone.
    shown = {"began", "deadline", "auction", *(party.role for party in reply.saga.parties)}
    return {
        "cell": cell.name,
        "saga": reply.saga,
        "facts": [(name, said) for name, said in facts(reply.saga, now_ms()) if name not in shown],
        "history": [(event, event_texts(event)[2]) for event in reply.history],
        "ended": reply.saga.state in ENDED,
        "kind": kind_text(reply.saga),
        "state": enum_text(reply.saga, "state"),
    }


@post("/sagas/{cell}/{saga_id}/{order}", *(f"SagaService.{rpc}Saga" for rpc in ORDERED_BY))
async def order(request: Request) -> Response:
    """Retry, pause, resume, compensate. A form that is sent twice is one command, by the id in it."""
    what = request.path_params["order"]
    cell, saga_id = await cell_in(request), _saga_id(request)
    client = ledger_of(request).client
    if what == RETRY:
        # Not a command: it leaves no event, and has no reason.
        await client.once(cell.sagas.RetrySaga, saga_pb2.RetrySagaRequest(saga_id=saga_id), at=cell.name)
    elif what not in ORDERS:
        raise BadInput(f"{what!r} is no order: expected {RETRY}, {', '.join(ORDERS)}")
    else:
        method, kind = ORDERS[what]
        command_id, note = await field(request, "command_id"), await require_reason(request)
        await client.once(method(cell), kind(command_id=command_id, saga_id=saga_id, note=note), at=cell.name)
    return see(f"/sagas/{cell.name}/{saga_id}?done={what}")


def _saga_id(request: Request) -> str:
    return id_in(request, "saga_id")
