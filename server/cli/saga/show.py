"""Sagas as tables for people, and as JSON for programs."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from cellbook.v1 import event_pb2, saga_pb2
from server.cli.audit.trace import with_parsed_json
from server.cli.report import plain, table, tell_facts
from server.cli.screen import literal
from server.cli.texts import amount_text, enum_text, hlc_text, posting_text, span_text, time_text

_STATE = saga_pb2.SagaState
_LEG = saga_pb2.LegState
ENDED = frozenset({_STATE.SAGA_STATE_COMPLETED, _STATE.SAGA_STATE_COMPENSATED})
_COLOURS = {
    _STATE.SAGA_STATE_COMPENSATING: "yellow",
    _STATE.SAGA_STATE_COMPLETED: "green",
    _STATE.SAGA_STATE_COMPENSATED: "magenta",
}
_ERROR_SHOWN_MAX = 60


# --- for programs -------------------------------------------------------------------------------------------


def saga_json(cell: str, saga: saga_pb2.Saga) -> dict[str, Any]:
    """The message with its fields' names; `cell` orchestrates it."""
    return {"cell": cell, **plain(saga)}


def event_json(event: event_pb2.Event) -> dict[str, Any]:
    """Payload and metadata as parsed JSON."""
    return with_parsed_json(plain(event))


# --- for people ---------------------------------------------------------------------------------------------


def kind_text(saga: saga_pb2.Saga) -> str:
    return enum_text(saga, "kind")


def state_text(saga: saga_pb2.Saga) -> str:
    """With everything that an operator must notice."""
    name = enum_text(saga, "state")
    text = f"[{_COLOURS[saga.state]}]{name}[/]" if saga.state in _COLOURS else name
    marks = ["[red bold]STUCK[/]"] * saga.stuck + ["[yellow bold]paused[/]"] * saga.paused
    return ", ".join([text, *marks])


def current_leg(saga: saga_pb2.Saga) -> str:
    """The leg that is due, if the saga has not ended; while compensating, the last one that is done."""
    pending = [leg for leg in saga.legs if leg.state == _LEG.LEG_STATE_PENDING]
    done = [leg for leg in saga.legs if leg.state == _LEG.LEG_STATE_DONE]
    if saga.state in ENDED:
        return ""
    if saga.state == _STATE.SAGA_STATE_COMPENSATING:
        return f"back: {done[-1].leg} at {done[-1].cell}" if done else "back"
    return f"{pending[0].leg} at {pending[0].cell}" if pending else ""


def list_table(sagas: Sequence[tuple[str, saga_pb2.Saga]], now_ms: int) -> Table:
    one_line = ("saga", "kind", "cell", "state", "age", "deadline", "next leg")
    made = table(*one_line, "attempts", "last error", right={"age", "attempts"}, no_wrap=one_line)
    for cell, saga in sagas:
        made.add_row(
            literal(saga.saga_id),
            kind_text(saga),
            literal(cell),
            state_text(saga),
            span_text(now_ms - saga.start_time_ms),
            _deadline(saga, now_ms),
            literal(current_leg(saga)),
            str(saga.attempts or ""),
            literal(_waiting(saga)[:_ERROR_SHOWN_MAX]),
        )
    return made


def tell_saga(console: Console, cell: str, saga: saga_pb2.Saga, now_ms: int) -> None:
    title = f"[bold]{kind_text(saga)} {literal(saga.saga_id)}[/bold], driven by {literal(cell)}: {state_text(saga)}"
    tell_facts(console, title, facts(saga, now_ms))
    console.print()
    legs = table("leg", "cell", "state", "leg id, as in its cell", "effect (event)")
    for leg in saga.legs:
        name = f"{leg.leg} (pivot)" if leg.pivot else leg.leg
        state = enum_text(leg, "state")
        legs.add_row(literal(name), literal(leg.cell), state, literal(leg.leg_id), literal(leg.event_id or "-"))
    console.print(legs)


def tell_history(console: Console, history: Iterable[event_pb2.Event]) -> None:
    made = table("position", "HLC (UTC)", "event", "what", "postings", right={"position"})
    for event in history:
        made.add_row(str(event.position), *map(literal, event_texts(event)))
    console.print(made)


def news_line(news: saga_pb2.WatchSagaResponse) -> str:
    saga = news.saga
    if news.HasField("event"):
        hlc, kind, what, postings = map(literal, event_texts(news.event))
        return f"{hlc}  {kind}  {what}  {postings}".rstrip()
    return f"[dim]attempt {saga.attempts} of {literal(current_leg(saga))} failed:[/dim] {literal(saga.last_error)}"


def event_texts(event: event_pb2.Event) -> tuple[str, str, str, str]:
    """Its stamp, its type, its content in short, and its postings; unescaped."""
    payload = json.loads(event.payload_json)
    said = (payload.get(name, "") for name in ("leg", "result", "failure_reason", "failure_message", "note"))
    postings = ", ".join(posting_text(each, signed=False) for each in event.postings)
    what = " ".join(filter(None, map(str, said)))
    return hlc_text(event.hlc), event.event_type, what, postings


def facts(saga: saga_pb2.Saga, now_ms: int) -> Iterable[tuple[str, str]]:
    """The facts of a saga by name; unescaped."""
    yield "began", f"{time_text(saga.start_time_ms)}, {span_text(now_ms - saga.start_time_ms)} ago"
    if saga.deadline_ms:
        left = "" if saga.state in ENDED else f", {_deadline(saga, now_ms)}"
        yield "deadline", f"{time_text(saga.deadline_ms)}{left}"
    if saga.HasField("amount"):
        yield "amount", amount_text(saga.amount.amount_minor, saga.amount.currency)
    for name, said in (("auction", saga.auction), ("asset", saga.asset), ("bid", saga.bid_id)):
        if said:
            yield name, said
    for party in saga.parties:
        yield party.role, f"{party.user_id} ({party.cell})"
    if saga.failure_reason:
        yield "turned back", f"{saga.failure_reason} {saga.failure_message}".rstrip()
    if saga.attempts:
        yield "failed attempts", f"{saga.attempts}, the last: {saga.last_error}"
    if saga.waits_for_cell:
        yield "waits for", f"{saga.waits_for_cell}, which does not answer"
    if saga.next_attempt_time_ms:
        yield "next attempt", f"in {span_text(saga.next_attempt_time_ms - now_ms)}"


def _deadline(saga: saga_pb2.Saga, now_ms: int) -> str:
    if not saga.deadline_ms or saga.state in ENDED:
        return "-"
    left_ms = saga.deadline_ms - now_ms
    return f"in {span_text(left_ms)}" if left_ms >= 0 else f"passed {span_text(-left_ms)} ago"


def _waiting(saga: saga_pb2.Saga) -> str:
    return saga.last_error or (f"{saga.waits_for_cell} does not answer" if saga.waits_for_cell else "")
