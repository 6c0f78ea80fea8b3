"""The trial balance, checkpoints with their witnesses, and reconciliation while it runs."""

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from cellbook.v1 import audit_pb2, event_pb2
from cells.audit.verify.note import Malformed, named_in
from server.cli.audit.books import Reconciled
from server.cli.audit.trial import is_eliminated, trial_of_all
from server.cli.client import CellStubs, ClientError, LedgerRefusal
from server.cli.reach import Reach
from server.cli.report import Stage
from server.console.auditor.accounts import moment_in
from server.console.console import console_of, ledger_of, render, render_text
from server.console.pages import get, post
from server.console.serving import field, require_session

# The end of each log that is searched for earlier findings.
EVENTS_SEARCHED = 100_000
FAILED, REBUILT = "RECONCILIATION_FAILED", "PROJECTIONS_REBUILT"
PROGRESS_EVERY_S = 1.0
# Of all cells as one ledger.
TRIAL = ("AuditService.GetTrialBalance", "AuditService.ListClearing", "AuditService.ListBalances")
RECONCILE = "AuditService.Reconcile"
# Between the two parts of a page that is sent while its content comes in.
SEAM = "<!-- content -->"


# --- the trial balance ------------------------------------------------------------------------------------------------


@get("/auditor/trial-balance", *TRIAL, title="Trial balance")
async def trial_balance(request: Request) -> Response:
    cell, at = await field(request, "cell"), await field(request, "at")
    moment, ledger = await moment_in(request, "at"), ledger_of(request)
    reach = await ledger.reach()
    context: dict[str, Any] = {
        "cell": cell,
        "at": at,
        "cells": reach.listed,
        "all": None,
    }
    if cell:
        found = (await ledger.reach(cell)).only
        one = await found.ask(found.audit.GetTrialBalance, audit_pb2.GetTrialBalanceRequest(as_of=moment))
        context |= {"one": one, "sums": _sums(one)}
    else:
        # Nobody watches its progress.
        whole = await trial_of_all(reach, at, Stage(None, "", 0))
        context |= {"all": whole, "problems": whole.problems(), "is_eliminated": is_eliminated}
    return render(request, "auditor/trial_balance.html", **context)


def _sums(reply: audit_pb2.GetTrialBalanceResponse) -> dict[str, int]:
    """By currency; each must be zero."""
    sums: dict[str, int] = {}
    for line in reply.accounts:
        sums[line.currency] = sums.get(line.currency, 0) + line.amount_minor
    return sums


# --- checkpoints ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A cell's last checkpoint. The browser checks the signatures; here they are only named."""

    cell: str
    reply: audit_pb2.GetCheckpointResponse
    # "name+id" of each key.
    signed_by: Sequence[str]


@get("/auditor/checkpoints", "AuditService.GetCheckpoint", "AuditService.GetConsistencyProof", title="Checkpoints")
async def checkpoints(request: Request) -> Response:
    reach = await ledger_of(request).reach()
    answers = await reach.ask_all(lambda cell: cell.audit.GetCheckpoint, audit_pb2.GetCheckpointRequest())
    return render(
        request,
        "auditor/checkpoints.html",
        signed=[
            Signed(cell=name, reply=reply, signed_by=_signed_by(reply.checkpoint))
            for name, reply in sorted(answers.given.items())
        ],
        refused={name: refusal.message for name, refusal in sorted(answers.refused.items())},
        silent=dict(sorted(answers.silent.items())),
        log_keys=" ".join(console_of(request).settings.log_keys),
    )


def _signed_by(note: str) -> Sequence[str]:
    try:
        return named_in(note)
    except Malformed:
        # The browser says so.
        return ()


# --- reconciliation ---------------------------------------------------------------------------------------------------


@get("/auditor/reconciliation", RECONCILE, "EventService.Subscribe", title="Reconciliation")
async def reconciliation(request: Request) -> Response:
    """The form to start one; with `earlier`, what passes before have recorded in the logs."""
    reach = await ledger_of(request).reach()
    wanted = bool(await field(request, "earlier"))
    found, silent = await _earlier(reach) if wanted else ([], {})
    return render(
        request,
        "auditor/reconciliation.html",
        cells=reach.listed,
        wanted=wanted,
        found=found,
        silent=silent,
        events_searched=EVENTS_SEARCHED,
    )


async def _earlier(reach: Reach) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Events of passes that found something and of rebuilds, the last ones first; and cells that do not answer."""
    found, silent = list[dict[str, Any]](), dict[str, str]()
    for cell in reach.cells:
        try:
            head = await cell.ask(cell.audit.GetCheckpoint, audit_pb2.GetCheckpointRequest())
            begun = max(head.position - EVENTS_SEARCHED, 0) + 1
            events = await reach.client.log(
                cell, event_pb2.EventFilter(event_types=[FAILED, REBUILT]), from_position=begun
            )
        except (ClientError, LedgerRefusal) as error:
            silent[cell.name] = str(error)
            continue
        found += [{"event": event, "payload": json.loads(event.payload_json)} for event in events]
    found.sort(key=lambda each: (each["event"].hlc.physical_ms, each["event"].hlc.logical), reverse=True)
    return found, silent


@post("/auditor/reconciliation", RECONCILE)
async def reconcile(request: Request) -> Response:
    """Sends the page while the cells work. A visitor who leaves it ends the pass."""
    name, is_full = await field(request, "cell"), bool(await field(request, "full"))
    ledger = ledger_of(request)
    reach = await ledger.reach(name)
    wanted = audit_pb2.ReconcileRequest(full=is_full)
    begin, end = render_text(request, "auditor/reconciling.html").split(SEAM)

    async def parts() -> AsyncIterator[str]:
        yield begin
        done = Reconciled()
        for cell in reach.cells:
            async with aclosing(_progress(cell, wanted, done)) as progress:
                async for said in progress:
                    require_session(request)
                    yield Markup("<li>{}</li>\n").format(said)
        found = console_of(request).templates.get_template("auditor/_reconciled.html").render(done=done)
        yield f"</ol>{found}{end}"

    return StreamingResponse(parts(), media_type="text/html; charset=utf-8")


async def _progress(cell: CellStubs, wanted: audit_pb2.ReconcileRequest, done: Reconciled) -> AsyncGenerator[str, None]:
    findings, stage, said_s = list[audit_pb2.AuditFinding](), "", 0.0
    yield f"{cell.name}: begun"
    try:
        async with aclosing(cell.items(cell.audit.Reconcile, wanted)) as stream:
            async for reply in stream:
                if reply.HasField("progress"):
                    if reply.progress.stage == stage and time.monotonic() < said_s + PROGRESS_EVERY_S:
                        continue
                    stage, said_s = reply.progress.stage, time.monotonic()
                    yield f"{cell.name}: {reply.progress.stage}, {reply.progress.done:,} of {reply.progress.total:,}"
                elif reply.HasField("finding"):
                    findings.append(reply.finding)
                else:
                    done.summaries[cell.name], done.findings[cell.name] = reply.summary, findings
    except (ClientError, LedgerRefusal) as error:
        done.silent[cell.name] = str(error)
    yield f"{cell.name}: ended"
