"""`cellbook audit trace`: prints the tree of causes and effects, for people and programs."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cellbook.v1 import audit_pb2, event_pb2
from server.cli.client import CallDenied, ClientError
from server.cli.reach import Reach
from server.cli.report import plain, show, table
from server.cli.screen import literal
from server.cli.texts import posting_text, stamp_text, utc

# The maximum indentation: chains of causes may be of any length.
INDENT_MAX = 8


Subject = Annotated[
    str, typer.Argument(help="Id of an event, command, saga, auction, asset or account; a name; or deposits/REFERENCE.")
]
Limit = Annotated[int, typer.Option("--limit", min=1, max=2_000, help="The maximum number of events.")]


async def run_trace(reach: Reach, subject: Subject, limit: Limit = 500) -> None:
    """Follow an object up to its causes and down to its effects, across all cells.

    Exit code 1 if the answer is incomplete: a cell is missing, an event was changed, or the limit was reached.
    """
    asked, reply = await first_answer(reach, audit_pb2.TraceRequest(subject=subject, event_max=limit))
    wrong = "; ".join(problems(reply))
    show(
        lambda: trace_json(reply),
        lambda console: tell_trace(console, subject, asked, reply),
        [f"this trace is not whole: {wrong}"] * bool(wrong),
    )


async def first_answer(
    reach: Reach, request: audit_pb2.TraceRequest, first: str = ""
) -> tuple[str, audit_pb2.TraceResponse]:
    """Of the first cell that answers, as any cell can, with its name. Raises LedgerRefusal, ClientError.

    Ask an account's own cell `first`: cells do not tell each other all about an account.
    """
    silent = []
    for cell in sorted(reach.cells, key=lambda each: each.name != first):
        try:
            return cell.name, await cell.ask(cell.audit.Trace, request)
        except CallDenied:
            raise
        except ClientError as error:
            silent.append(str(error))
    raise ClientError("; ".join(silent) or "there is no cell to ask")


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
        with_parsed_json(traced["event"])
    return {"whole": not list(problems(reply)), **content}


def with_parsed_json(event: dict[str, Any]) -> dict[str, Any]:
    """Replaces an event's texts of payload and metadata by what they hold."""
    for name in ("payload", "metadata"):
        event[name] = _parsed(event.pop(f"{name}_json"))
    return event


def leg_of(event: event_pb2.Event) -> str:
    """The leg of a saga that the event is about; empty if it is about none."""
    payload = _parsed(event.payload_json)
    leg = payload.get("leg") if isinstance(payload, dict) else None
    return str(leg or "")


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
        said = f"refused this command at {stamp_text(refused.hlc)} UTC: {literal(refused.refusal.message)}"
        console.print(f"{literal(refused.cell)} {said}", soft_wrap=True)
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
        made.add_row(str(number), stamp_text(event.hlc), where, _cause(traced, numbers), _what(traced, "  " * indent))
    return made


def _indents(events: Sequence[audit_pb2.TracedEvent]) -> list[int]:
    """Indents effects only if a cause has several: a single effect stands directly under its cause."""
    effects = Counter(traced.event.causation_id for traced in events if traced.depth)
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
    lines += [literal(posting_text(line)) for line in event.postings]
    if traced.problem:
        lines.append(f"[red bold]{literal(traced.problem)}[/red bold]")
    return "\n".join(f"{indent}{line}" for line in lines)


def _who(traced: audit_pb2.TracedEvent) -> tuple[str, str]:
    event = traced.event
    person = f" for user {event.user_id}" if event.user_id else ""
    return (
        f"{traced.principal or 'nobody known'}{person}",
        f"written {utc(event.recorded_at_us):%H:%M:%S.%f}, id {event.event_id}",
    )


def _leg(event: event_pb2.Event) -> str:
    leg = leg_of(event)
    return f" {literal(leg)}" if leg else ""
