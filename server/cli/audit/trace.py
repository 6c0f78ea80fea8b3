"""`cellbook audit trace`: prints the tree of causes and effects, for people and programs."""

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cellbook.v1 import audit_pb2, event_pb2
from server.cli.audit.ask import Json, first_answer, plain, show, table
from server.cli.reach import Reach
from server.cli.screen import literal
from server.cli.texts import account_text, amount_text, stamp_text, wall_text

# The maximum indentation: chains of causes may be of any length.
INDENT_MAX = 8


Subject = Annotated[str, typer.Argument(help="Id of an event, command, saga, auction, asset or account; or a name.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=2_000, help="The maximum number of events.")]


async def run_trace(reach: Reach, subject: Subject, limit: Limit = 500, *, as_json: Json = False) -> None:
    """Follow an object up to its causes and down to its effects, across all cells.

    Exit code 1 if the answer is incomplete: a cell is missing, an event was changed, or the limit was reached.
    """
    request = audit_pb2.TraceRequest(subject=subject, event_max=limit)
    asked, reply = await first_answer(reach, lambda cell: cell.audit.Trace, request)
    wrong = "; ".join(problems(reply))
    show(
        lambda: trace_json(reply),
        lambda console: tell_trace(console, subject, asked, reply),
        [f"this trace is not whole: {wrong}"] * bool(wrong),
        as_json=as_json,
    )


def problems(reply: audit_pb2.TraceResponse) -> Iterator[str]:
    """Why the answer is incomplete or cannot be trusted."""
    for missing in reply.missing:
        yield f"{missing.cell or 'the directory of cells'} is missing ({missing.problem})"
    if reply.truncated:
        yield f"it was cut off after {len(reply.events):,} events: --limit shows more, up to 2,000"
    for traced in reply.events:
        if traced.problem:
            yield f"{traced.event.cell}/{traced.event.position}: {traced.problem}"
        if traced.cause_missing and not reply.missing and not reply.truncated:
            yield f"{traced.event.cell}/{traced.event.position}: its cause {traced.event.causation_id} is in no cell"


def trace_json(reply: audit_pb2.TraceResponse) -> dict[str, Any]:
    """The message by field names, with payload and metadata as JSON; `whole`: nothing is missing."""
    content = plain(reply)
    for traced in content["events"]:
        for name in ("payload", "metadata"):
            traced["event"][name] = _parsed(traced["event"].pop(f"{name}_json"))
    return {"whole": not list(problems(reply)), **content}


def _parsed(text: str) -> object:
    """The parsed JSON, or the text itself if it cannot be parsed."""
    try:
        return json.loads(text)
    except ValueError:
        return text


# --- for people -----------------------------------------------------------------------------------------------


def tell_trace(console: Console, subject: str, asked: str, reply: audit_pb2.TraceResponse) -> None:
    console.print(
        f"[bold]{literal(subject)}[/bold]: {len(reply.events):,} events, as "
        f"{literal(', '.join(reply.cells))} {'tell' if len(reply.cells) > 1 else 'tells'} it "
        f"({literal(asked)} was asked)",
        soft_wrap=True,
    )
    for said in problems(reply):
        console.print(f"[red bold]not whole:[/red bold] {literal(said)}", soft_wrap=True)
    for refused in reply.refused:
        at = stamp_text(refused.hlc.physical_ms, refused.hlc.logical)
        said = literal(refused.refusal.message)
        console.print(f"{literal(refused.cell)} refused this command at {at} UTC: {said}", soft_wrap=True)
    if reply.events:
        console.print()
        console.print(_table(reply.events))


def _table(events: Sequence[audit_pb2.TracedEvent]) -> Table:
    one_line = ("HLC (UTC)", "cell/position", "caused by")
    made = table("#", *one_line, "what, by whom, postings", right={"#"}, no_wrap=one_line)
    numbers = {traced.event.event_id: number for number, traced in enumerate(events, 1)}
    for number, (traced, indent) in enumerate(zip(events, _indents(events), strict=True), 1):
        event = traced.event
        where = literal(f"{event.cell}/{event.position}")
        stamp = stamp_text(event.hlc.physical_ms, event.hlc.logical)
        made.add_row(str(number), stamp, where, _cause(traced, numbers), _what(traced, "  " * indent))
    return made


def _indents(events: Sequence[audit_pb2.TracedEvent]) -> list[int]:
    """Indents effects only if a cause has several: a single effect stands directly under its cause."""
    effects: dict[str, int] = {}
    for traced in events:
        if traced.depth:
            effects[traced.event.causation_id] = effects.get(traced.event.causation_id, 0) + 1
    indents: dict[str, int] = {}
    for traced in events:
        cause = traced.event.causation_id
        indent = indents.get(cause, 0) + (effects[cause] > 1) if traced.depth else 0
        indents[traced.event.event_id] = indent
    return [min(indents[traced.event.event_id], INDENT_MAX) for traced in events]


def _cause(traced: audit_pb2.TracedEvent, numbers: dict[str, int]) -> str:
    cause = traced.event.causation_id
    if not cause:
        return "a client or clock"
    if cause in numbers:
        return f"#{numbers[cause]}"
    return f"[red]missing[/red] {literal(cause[-6:])}"


def _what(traced: audit_pb2.TracedEvent, indent: str) -> str:
    event, subject = traced.event, traced.role == audit_pb2.TRACE_ROLE_SUBJECT
    event_type = literal(event.event_type)
    name = f"[bold]{event_type}[/bold]" if subject else event_type
    lines = [f"{name}{_leg(event)}", *(f"[dim]{literal(said)}[/dim]" for said in _who(traced))]
    lines += [
        literal(f"{account_text(line.account, {})} {amount_text(line.amount_minor, line.currency, signed=True)}")
        for line in event.postings
    ]
    if traced.problem:
        lines.append(f"[red bold]{literal(traced.problem)}[/red bold]")
    return "\n".join(f"{indent}{line}" for line in lines)


def _who(traced: audit_pb2.TracedEvent) -> tuple[str, str]:
    event = traced.event
    person = f" for user {event.user_id}" if event.user_id else ""
    return (
        f"{traced.principal or 'nobody known'}{person}",
        f"written {wall_text(event.recorded_at_us)}, id {event.event_id}",
    )


def _leg(event: event_pb2.Event) -> str:
    payload = _parsed(event.payload_json)
    leg = payload.get("leg") if isinstance(payload, dict) else None
    return f" {literal(str(leg))}" if leg else ""
