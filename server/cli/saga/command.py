"""The command line of `cellbook saga`, and the calls behind it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, Any
from uuid import UUID

import typer
from google.protobuf.message import Message
from rich.console import Console

from cellbook.v1 import saga_pb2
from server.cli import report
from server.cli.client import OPERATOR, CellStubs, ClientError, NoAnswer, SagaNotFound, new_command_id
from server.cli.command import for_cells
from server.cli.reach import Reach
from server.cli.saga import show
from server.cli.screen import literal
from server.cli.texts import enum_choices, now_ms, parse_span_ms

NOT_FOUND = "SAGA_NOT_FOUND"
PAGE = 1_000
ORDERS: dict[str, tuple[Callable[[CellStubs], Callable[..., Awaitable[Message]]], type[Message]]] = {
    "pause": (lambda cell: cell.sagas.PauseSaga, saga_pb2.PauseSagaRequest),
    "resume": (lambda cell: cell.sagas.ResumeSaga, saga_pb2.ResumeSagaRequest),
    "compensate": (lambda cell: cell.sagas.CompensateSaga, saga_pb2.CompensateSagaRequest),
}
STATES = enum_choices(saga_pb2.Saga, "state")
KINDS = {text.replace(" ", "-"): number for text, number in enum_choices(saga_pb2.Saga, "kind").items()}
# States of sagas that have not ended, which concern an operator.
OPEN_STATES = ("running", "committed", "compensating")

app = typer.Typer(help="Show and control the sagas of all cells.", no_args_is_help=True, rich_markup_mode=None)


def _one_of(known: Collection[str]) -> Callable[[list[str] | str | None], list[str] | str | None]:
    def checked(given: list[str] | str | None) -> list[str] | str | None:
        for text in [given] if isinstance(given, str) else given or ():
            if text and text not in known:
                raise typer.BadParameter(f"{text!r}: expected {', '.join(known)}")
        return given

    return checked


def _span(text: str) -> str:
    if text and parse_span_ms(text) is None:
        raise typer.BadParameter(f"{text!r}: expected a number and s, m, h or d, as in 15m")
    return text


SagaId = Annotated[str, typer.Argument(metavar="SAGA", help="The saga's id.")]
Note = Annotated[str, typer.Option("--note", help="The reason, for the log: at most 200 characters.")]
States = Annotated[
    list[str] | None,
    typer.Option("--state", help=f"{', '.join(STATES)}. May be repeated.", callback=_one_of(STATES)),
]
Kind = Annotated[str, typer.Option("--kind", help=", ".join(KINDS), callback=_one_of(KINDS))]


# --- commands -------------------------------------------------------------------------------------------------------


@app.command("list")
@for_cells
async def list_sagas(  # noqa: PLR0917 - as many options
    reach: Reach,
    state: States = None,
    every: Annotated[bool, typer.Option("--all", help="Also those that have ended.")] = False,
    kind: Kind = "",
    with_cell: Annotated[str, typer.Option("--with", help="Only those that this cell takes part in.")] = "",
    older: Annotated[str, typer.Option("--older-than", help="90s, 15m, 2h, 3d", callback=_span)] = "",
    newer: Annotated[str, typer.Option("--newer-than", help="90s, 15m, 2h, 3d", callback=_span)] = "",
    stuck: Annotated[bool, typer.Option("--stuck", help="Only those that can neither proceed nor compensate.")] = False,
    paused: Annotated[bool, typer.Option("--paused", help="Only those that are paused.")] = False,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=100_000, help="The most sagas to list, oldest first.")
    ] = 100,
) -> None:
    """List the sagas of all cells, oldest first: those that have not ended, unless asked otherwise."""
    if with_cell:
        reach.require_listed(with_cell)
    request = saga_pb2.ListSagasRequest(
        states=[] if every else [STATES[each] for each in state or OPEN_STATES],
        kind=KINDS.get(kind, saga_pb2.SAGA_KIND_UNSPECIFIED),
        cell=with_cell,
        started_from_ms=now_ms() - (parse_span_ms(newer) or 0) if newer else 0,
        started_before_ms=now_ms() - (parse_span_ms(older) or 0) if older else 0,
        stuck=stuck,
        paused=paused,
    )
    found = await listed(reach, request, limit)
    report.show(
        lambda: {
            "sagas": [show.saga_json(name, saga) for name, saga in found.sagas],
            "more": found.more,
            "silent": found.silent,
        },
        lambda console: _tell_list(console, found),
        found.silent_lines,
    )


def _tell_list(console: Console, found: "Listed") -> None:
    if found.sagas:
        console.print(show.list_table(found.sagas, now_ms()))
    console.print(f"{len(found.sagas):,} sagas{', and there are more: --limit' if found.more else ''}")
    for problem in found.silent_lines:
        console.print(f"[red]{literal(problem)}[/red]")


@app.command()
@for_cells
async def get(reach: Reach, saga: SagaId) -> None:
    """Show one saga: its legs, its attempts, its history."""
    cell, reply = await found_saga(reach, saga_id_in(saga))

    def tell(console: Console) -> None:
        show.tell_saga(console, cell.name, reply.saga, now_ms())
        console.print()
        show.tell_history(console, reply.history)

    def content() -> dict[str, Any]:
        return {**show.saga_json(cell.name, reply.saga), "history": [*map(show.event_json, reply.history)]}

    report.show(content, tell)


@app.command()
@for_cells
async def watch(reach: Reach, saga: SagaId) -> None:
    """Follow one saga to its end, a line an event or failed attempt."""
    last = saga_pb2.Saga()
    async for name, news in watched(reach, saga_id_in(saga)):
        last = news.saga
        event = show.event_json(news.event) if news.HasField("event") else None
        report.show_line({"event": event, "saga": show.saga_json(name, last)}, show.news_line(news))
    if not report.AS_JSON.get():
        report.line(f"{show.kind_text(last)} {last.saga_id}: {show.state_text(last)}")


@app.command()
@for_cells
async def retry(reach: Reach, saga: SagaId) -> None:
    """Try the current leg at once."""
    await _order(reach, "retry", saga)


@app.command()
@for_cells
async def pause(reach: Reach, saga: SagaId, note: Note = "") -> None:
    """Begin no further leg until the saga is resumed. Its deadline keeps running."""
    await _order(reach, "pause", saga, note)


@app.command()
@for_cells
async def resume(reach: Reach, saga: SagaId, note: Note = "") -> None:
    """Let a paused saga continue."""
    await _order(reach, "resume", saga, note)


@app.command()
@for_cells
async def compensate(reach: Reach, saga: SagaId, note: Note = "") -> None:
    """Compensate a saga: undo its legs. Refused once its pivot is done."""
    await _order(reach, "compensate", saga, note)


async def _order(reach: Reach, order: str, saga: str, note: str = "") -> None:
    name, after = await ordered(reach, order, saga_id_in(saga), note)
    report.show(lambda: show.saga_json(name, after), lambda console: show.tell_saga(console, name, after, now_ms()))


# --- calls ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """Sagas with the cell that orchestrates each, oldest first. `more`: there are further ones beyond the limit."""

    sagas: list[tuple[str, saga_pb2.Saga]] = field(default_factory=list)
    silent: dict[str, str] = field(default_factory=dict)
    more: bool = False

    @property
    def silent_lines(self) -> Sequence[str]:
        return [f"{name} does not answer, its sagas are missing: {said}" for name, said in sorted(self.silent.items())]


def saga_id_in(text: str) -> str:
    """Raises ClientError."""
    try:
        return str(UUID(text))
    except ValueError:
        raise ClientError(f"{text!r} is no id of a saga: expected a UUID, as `cellbook saga list` shows it") from None


async def listed(reach: Reach, request: saga_pb2.ListSagasRequest, limit: int) -> Listed:
    """The `limit` oldest of all cells."""
    first = saga_pb2.ListSagasRequest()
    first.CopyFrom(request)
    first.page_size = min(limit, PAGE)
    answers = await reach.ask_all(lambda cell: cell.sagas.ListSagas, first)
    for refusal in answers.refused.values():
        raise refusal
    sagas, more = [], False
    for name, reply in answers.given.items():
        found = [(name, saga) for saga in reply.sagas]
        while reply.next_page_token and len(found) < limit:
            first.page_token = reply.next_page_token
            reply = await reach.client.call(reach.named(name).sagas.ListSagas, first, OPERATOR)  # noqa: PLW2901
            found += [(name, saga) for saga in reply.sagas]
        more = more or bool(reply.next_page_token)
        sagas += found
    sagas.sort(key=lambda pair: (pair[1].start_time_ms, pair[1].saga_id))
    return Listed(sagas=sagas[:limit], silent=answers.silent, more=more or len(sagas) > limit)


async def found_saga(reach: Reach, saga_id: str) -> tuple[CellStubs, saga_pb2.GetSagaResponse]:
    """The cell that orchestrates the saga, and its answer. Raises ClientError, LedgerRefusal."""
    answers = await reach.ask_all(lambda cell: cell.sagas.GetSaga, saga_pb2.GetSagaRequest(saga_id=saga_id))
    for cell in reach.cells:
        if cell.name in answers.given:
            return cell, answers.given[cell.name]
    for refusal in answers.refused.values():
        if refusal.reason != NOT_FOUND:
            raise refusal
    if answers.silent:
        problem = "; ".join(f"{name}: {problem}" for name, problem in sorted(answers.silent.items()))
        raise ClientError(f"no cell that answers has saga {saga_id}, and not all do: {problem}")
    raise SagaNotFound(f"no saga {saga_id} in {reach.names}")


async def ordered(reach: Reach, order: str, saga_id: str, note: str) -> tuple[str, saga_pb2.Saga]:
    """Pauses, resumes, compensates or retries a saga; returns the saga afterwards. Raises LedgerRefusal."""
    cell, _ = await found_saga(reach, saga_id)
    call, command_id = reach.client.call, new_command_id()
    if order == "retry":
        # Not a command: it leaves no event.
        retried = await call(cell.sagas.RetrySaga, saga_pb2.RetrySagaRequest(saga_id=saga_id), OPERATOR)
        return cell.name, retried.saga
    method, request = ORDERS[order]
    await call(method(cell), request(command_id=command_id, saga_id=saga_id, note=note), OPERATOR)
    reply = await call(cell.sagas.GetSaga, saga_pb2.GetSagaRequest(saga_id=saga_id), OPERATOR)
    return cell.name, reply.saga


async def watched(reach: Reach, saga_id: str) -> AsyncIterator[tuple[str, saga_pb2.WatchSagaResponse]]:
    """Everything that has happened to the saga, then what happens, up to its end. Raises ClientError."""
    cell, _ = await found_saga(reach, saga_id)
    request = saga_pb2.WatchSagaRequest(saga_id=saga_id)
    try:
        async with aclosing(cell.items(cell.sagas.WatchSaga, request, OPERATOR)) as stream:
            async for news in stream:
                yield cell.name, news
    except NoAnswer as error:
        raise ClientError(f"{error}: watch it again") from None
