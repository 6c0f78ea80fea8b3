"""A trace as a picture and as a table; an event with its proof."""

import asyncio
import json
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from cellbook.v1 import audit_pb2
from server.cli.audit.trace import first_answer, leg_of, problems
from server.cli.client import LedgerRefusal
from server.cli.texts import amount_text, stamp_text, utc
from server.console.auditor.trace_picture import picture_of
from server.console.console import console_of, ledger_of, render
from server.console.pages import get
from server.console.serving import BadInput, field, id_in, whole_number
from server.shell.fields.texts import shown_json

EVENTS_DEFAULT, EVENTS_MAX = 500, 2_000


@get("/auditor/trace", "AuditService.Trace")
async def trace(request: Request) -> Response:
    subject, limit = await field(request, "subject"), await field(request, "limit")
    event_max = whole_number(limit, "limit") if limit else EVENTS_DEFAULT
    if not 1 <= event_max <= EVENTS_MAX:
        raise BadInput(f"limit: expected a number from 1 to {EVENTS_MAX:,}")
    wanted = audit_pb2.TraceRequest(subject=subject, event_max=event_max)
    reach, home = await asyncio.gather(ledger_of(request).reach(), _home_of(request, subject))
    asked, reply = await first_answer(reach, wanted, home)
    return render(
        request,
        "auditor/trace.html",
        subject=subject,
        asked=asked,
        reply=reply,
        problems=list(problems(reply)),
        picture=picture_of(reply),
        numbers={traced.event.event_id: number for number, traced in enumerate(reply.events, 1)},
        event_max=event_max,
        events_max=EVENTS_MAX,
        leg_of=leg_of,
    )


async def _home_of(request: Request, subject: str) -> str:
    """Of a user, all of whose account no other cell knows; empty: the subject is none. Raises as `Client.once`."""
    try:
        return (await ledger_of(request).home_of(str(UUID(subject)))).name
    except (ValueError, LedgerRefusal):
        return ""


@get("/auditor/events/{event_id}", "AuditService.Trace", "AuditService.GetInclusionProof")
async def event(request: Request) -> Response:
    event_id = id_in(request, "event_id")
    _, reply = await first_answer(
        await ledger_of(request).reach(), audit_pb2.TraceRequest(subject=event_id, event_max=EVENTS_MAX)
    )
    found = [traced for traced in reply.events if traced.event.event_id == event_id]
    if not found:
        silent = ", ".join(missing.cell for missing in reply.missing) or "none"
        raise BadInput(f"no cell that answers has event {event_id}; silent cells: {silent}")
    shown = found[0].event
    return render(
        request,
        "auditor/event.html",
        traced=found[0],
        event=shown,
        payload=readable(shown.payload_json),
        metadata=readable(shown.metadata_json),
        vector_clock=readable(json.dumps(dict(shown.vector_clock))),
        causes=[each.event for each in reply.events if each.event.event_id == shown.causation_id],
        effects=[each.event for each in reply.events if each.event.causation_id == event_id],
        missing=reply.missing,
        truncated=reply.truncated,
        stamp_text=stamp_text,
        recorded=f"{utc(shown.recorded_at_us):%Y-%m-%d %H:%M:%S.%f} UTC",
        amount_text=amount_text,
        log_keys=" ".join(console_of(request).settings.log_keys),
    )


def readable(text: str) -> str:
    """JSON over several lines, invisible characters escaped; a text that is no JSON as it is."""
    try:
        lines = json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False)
    except ValueError:
        lines = text
    return "\n".join(map(shown_json, lines.split("\n")))
