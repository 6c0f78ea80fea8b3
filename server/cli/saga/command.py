"""The command line of `cellbook saga`."""

import json
import re
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer

from cellbook.v1 import saga_pb2
from server.cli import report
from server.cli.access import chosen_access
from server.cli.client import ClientError
from server.cli.ending import run
from server.cli.options import HERE, json_option, router_option
from server.cli.reach import Reach, reached
from server.cli.saga import ask, show
from server.cli.screen import literal

Work = Callable[[Reach], Awaitable[None]]

_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_STATES = {name.removeprefix("SAGA_STATE_").lower(): value for name, value in saga_pb2.SagaState.items() if value}
_KINDS = {
    name.removeprefix("SAGA_KIND_").lower().replace("_", "-"): value
    for name, value in saga_pb2.SagaKind.items()
    if value
}
# States of sagas that have not ended, which concern an operator.
_OPEN = ("running", "committed", "compensating")

app = typer.Typer(help="Show and control the sagas of all cells.", no_args_is_help=True, rich_markup_mode=None)

SagaId = Annotated[str, typer.Argument(metavar="SAGA", help="The saga's id.")]
Router = Annotated[str, router_option("The router of the cells to ask.")]
Cell = Annotated[str, typer.Option("--cell", help="Ask this cell alone.")]
Json = Annotated[bool, json_option("Print JSON instead of tables.")]
Note = Annotated[str, typer.Option("--note", help="The reason, for the log: at most 200 characters.")]


@app.command("list")
def list_sagas(  # noqa: PLR0917 - as many options
    state: Annotated[list[str] | None, typer.Option("--state", help=f"{', '.join(_STATES)}. May be repeated.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Also those that have ended.")] = False,
    kind: Annotated[str, typer.Option("--kind", help=", ".join(_KINDS))] = "",
    with_cell: Annotated[str, typer.Option("--with", help="Only those that this cell takes part in.")] = "",
    older: Annotated[str, typer.Option("--older-than", help="90s, 15m, 2h, 3d")] = "",
    newer: Annotated[str, typer.Option("--newer-than", help="90s, 15m, 2h, 3d")] = "",
    stuck: Annotated[bool, typer.Option("--stuck", help="Only those that can neither proceed nor compensate.")] = False,
    paused: Annotated[bool, typer.Option("--paused", help="Only those that are paused.")] = False,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=100_000, help="The most sagas to list, oldest first.")
    ] = 100,
    router: Router = HERE,
    cell: Cell = "",
    as_json: Json = False,
) -> None:
    """List the sagas of all cells, oldest first: those that have not ended, unless asked otherwise."""
    now_ms = _now_ms()
    request = saga_pb2.ListSagasRequest(
        states=[] if every else [_one_of(_STATES, each, "--state") for each in state or _OPEN],
        kind=_one_of(_KINDS, kind, "--kind") if kind else saga_pb2.SAGA_KIND_UNSPECIFIED,
        cell=with_cell,
        started_from_ms=now_ms - _span_ms(newer, "--newer-than") if newer else 0,
        started_before_ms=now_ms - _span_ms(older, "--older-than") if older else 0,
        stuck=stuck,
        paused=paused,
    )

    async def work(reach: Reach) -> None:
        if with_cell:
            reach.require_listed(with_cell)
        listed = await ask.listed(reach, request, limit)
        _tell_list(listed, as_json=as_json)
        if listed.silent:
            raise ClientError("; ".join(ask.silent_lines(listed.silent)))

    _with_reach(router, cell, work)


@app.command()
def get(saga: SagaId, router: Router = HERE, cell: Cell = "", as_json: Json = False) -> None:
    """Show one saga: its legs, its attempts, its history."""

    async def work(reach: Reach) -> None:
        stubs, reply = await ask.found(reach, ask.saga_id_in(saga))
        if as_json:
            content = show.saga_json(stubs.name, reply.saga)
            content["history"] = [show.event_json(event) for event in reply.history]
            print(json.dumps(content, indent=2))
            return
        with report.stdout() as console:
            show.tell_saga(console, stubs.name, reply.saga, _now_ms())
            console.print()
            show.tell_history(console, reply.history)

    _with_reach(router, cell, work)


@app.command()
def watch(saga: SagaId, router: Router = HERE, cell: Cell = "", as_json: Json = False) -> None:
    """Follow one saga to its end, a line an event or failed attempt."""

    async def work(reach: Reach) -> None:
        last = saga_pb2.Saga()
        async for name, news in ask.watched(reach, ask.saga_id_in(saga)):
            last = news.saga
            if as_json:
                event = show.event_json(news.event) if news.HasField("event") else None
                print(json.dumps({"event": event, "saga": show.saga_json(name, last)}), flush=True)
            else:
                report.line(show.news_line(news))
        if not as_json:
            report.line(f"{show.kind_text(last)} {last.saga_id}: {show.state_text(last)}")

    _with_reach(router, cell, work)


@app.command()
def retry(saga: SagaId, router: Router = HERE, cell: Cell = "", as_json: Json = False) -> None:
    """Try the current leg at once."""
    _order("retry", saga, "", router, cell, as_json=as_json)


@app.command()
def pause(saga: SagaId, note: Note = "", router: Router = HERE, cell: Cell = "", as_json: Json = False) -> None:
    """Begin no further leg until the saga is resumed. Its deadline keeps running."""
    _order("pause", saga, note, router, cell, as_json=as_json)


@app.command()
def resume(saga: SagaId, note: Note = "", router: Router = HERE, cell: Cell = "", as_json: Json = False) -> None:
    """Let a paused saga continue."""
    _order("resume", saga, note, router, cell, as_json=as_json)


@app.command()
def compensate(saga: SagaId, note: Note = "", router: Router = HERE, cell: Cell = "", as_json: Json = False) -> None:
    """Compensate a saga: undo its legs. Refused once its pivot is done."""
    _order("compensate", saga, note, router, cell, as_json=as_json)


def _order(order: str, saga: str, note: str, router: str, cell: str, *, as_json: bool) -> None:
    async def work(reach: Reach) -> None:
        name, after = await ask.ordered(reach, order, ask.saga_id_in(saga), note)
        if as_json:
            print(json.dumps(show.saga_json(name, after), indent=2))
            return
        with report.stdout() as console:
            show.tell_saga(console, name, after, _now_ms())

    _with_reach(router, cell, work)


def _with_reach(router: str, cell: str, work: Work) -> None:
    async def reach_and_work() -> None:
        async with reached(router, chosen_access(), cell) as reach:
            await work(reach)

    run(reach_and_work())


def _tell_list(listed: ask.Listed, *, as_json: bool) -> None:
    if as_json:
        content: dict[str, Any] = {
            "sagas": [show.saga_json(name, saga) for name, saga in listed.sagas],
            "more": listed.more,
            "silent": listed.silent,
        }
        print(json.dumps(content, indent=2))
        return
    with report.stdout() as console:
        if listed.sagas:
            console.print(show.list_table(listed.sagas, _now_ms()))
        console.print(f"{len(listed.sagas):,} sagas{', and there are more: --limit' if listed.more else ''}")
        for told in ask.silent_lines(listed.silent):
            console.print(f"[red]{literal(told)}[/red]")


def _one_of(values: dict[str, Any], text: str, option: str) -> Any:  # noqa: ANN401 - a value of either enum
    if text not in values:
        raise typer.BadParameter(f"{text!r}: expected {', '.join(values)}", param_hint=option)
    return values[text]


def _span_ms(text: str, option: str) -> int:
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if found is None:
        raise typer.BadParameter(f"{text!r}: expected a number and s, m, h or d, as in 15m", param_hint=option)
    return int(found[1]) * _UNITS_MS[found[2]]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
