"""`cellbook audit reconcile` and `rebuild`: compare the tables of cells with their logs, and repair them."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar

import typer
from google.protobuf.message import Message
from rich.console import Console

from cellbook.v1 import audit_pb2
from server.cli.client import AUDITOR, OPERATOR, CellStubs, ClientError, LedgerRefusal
from server.cli.reach import Reach
from server.cli.report import plain, show, stage, table
from server.cli.screen import literal
from server.cli.texts import stamp_text

if TYPE_CHECKING:
    from grpc import aio

Reply = TypeVar("Reply", audit_pb2.ReconcileResponse, audit_pb2.RebuildResponse)
Finding: TypeAlias = audit_pb2.AuditFinding


@dataclass(slots=True)
class Reconciled:
    """The result of each cell, or why the cell gave none."""

    summaries: dict[str, audit_pb2.ReconcileSummary] = field(default_factory=dict)
    findings: dict[str, list[Finding]] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)

    def problems(self) -> list[str]:
        """Mismatches, and cells whose state is unknown."""
        wrong = [
            f"{cell}: {summary.finding_count:,} mismatches"
            for cell, summary in self.summaries.items()
            if summary.finding_count
        ]
        for cell, summary in self.summaries.items():
            wrong += [
                f"{cell} could not compare movements with {each.cell or 'all cells'} ({each.problem})"
                for each in summary.missing
            ]
        return wrong + [f"{cell} is missing ({problem})" for cell, problem in sorted(self.silent.items())]


Full = Annotated[bool, typer.Option("--full", help="Start at the first event, not at the last pass.")]
Rate = Annotated[int, typer.Option("--events-per-s", min=0, help="The maximum rate; 0 means no limit.")]
Note = Annotated[str, typer.Option("--note", help="The reason, for the log: at most 200 characters.")]


async def run_reconcile(reach: Reach, *, full: Full = False, events_per_s: Rate = 0) -> None:
    """Compare the tables of all cells with their logs, and their movements with each other, while they serve.

    Exit code 1 if anything is wrong, or a cell is missing.
    """
    done = await reconciled(reach, audit_pb2.ReconcileRequest(full=full, events_per_s=events_per_s))
    show(lambda: reconciled_json(done), lambda console: tell_reconciled(console, done), done.problems())


async def reconciled(reach: Reach, request: audit_pb2.ReconcileRequest) -> Reconciled:
    """Reconciles all cells, one after the other."""
    done = Reconciled()
    for cell in reach.cells:
        try:
            await _reconciled(cell, request, done)
        except (ClientError, LedgerRefusal) as error:
            done.silent[cell.name] = str(error)
    return done


async def _reconciled(cell: CellStubs, request: audit_pb2.ReconcileRequest, done: Reconciled) -> None:
    findings: list[Finding] = []
    async for reply in _results(cell, cell.audit.Reconcile, request, AUDITOR):
        if reply.HasField("finding"):
            findings.append(reply.finding)
        else:
            done.summaries[cell.name], done.findings[cell.name] = reply.summary, findings


async def run_rebuild(reach: Reach, note: Note = "") -> None:
    """Repair the tables of a cell from its log, while it serves. For operators.

    Exit code 1 if something is wrong that a rebuild cannot repair.
    """
    cell = reach.only
    request, left, summary = audit_pb2.RebuildRequest(note=note), list[Finding](), audit_pb2.RebuildSummary()
    async for reply in _results(cell, cell.audit.Rebuild, request, OPERATOR):
        if reply.HasField("left"):
            left.append(reply.left)
        else:
            summary = reply.summary
    wrong = []
    if summary.row_problem:
        wrong = [f"{cell.name}: rows were left, as the owner of the tables is needed: {summary.row_problem}"]
    elif summary.left_count:
        wrong = [f"{cell.name}: {summary.left_count:,} mismatches are left, which no rebuild puts right"]
    show(
        lambda: {**plain(summary), "left": [plain(each) for each in left]},
        lambda console: tell_rebuilt(console, summary, left),
        wrong,
    )


async def _results(
    cell: CellStubs, method: "Callable[..., aio.UnaryStreamCall[Any, Reply]]", request: Message, principal: str
) -> AsyncIterator[Reply]:
    """The cell's result; its progress is displayed. Raises ClientError, LedgerRefusal."""
    name, counted = "", None
    async with aclosing(cell.items(method, request, principal)) as stream:
        with ExitStack() as shown:
            async for reply in stream:
                if not reply.HasField("progress"):
                    yield reply
                    continue
                if counted is None or reply.progress.stage != name:
                    shown.close()
                    name = reply.progress.stage
                    counted = shown.enter_context(stage(f"{cell.name}: {name}", reply.progress.total))
                counted.left(reply.progress.total - reply.progress.done)


# --- for programs -------------------------------------------------------------------------------------------------


def reconciled_json(done: Reconciled) -> dict[str, Any]:
    cells = [
        {**plain(summary), "findings": [plain(finding) for finding in done.findings[cell]]}
        for cell, summary in done.summaries.items()
    ]
    return {"well": not done.problems(), "cells": cells, "silent": done.silent}


# --- for people ---------------------------------------------------------------------------------------------------


def tell_reconciled(console: Console, done: Reconciled) -> None:
    counts = ("events replayed", "as at position", "took", "mismatches")
    made = table("cell", *counts, "movements compared with", "open", right={*counts, "open"})
    for cell, summary in done.summaries.items():
        replayed = f"{summary.position - summary.from_position:,}{' (all)' if summary.full else ''}"
        wrong = f"[red bold]{summary.finding_count:,}[/]" if summary.finding_count else "[green]0[/]"
        numbers = (replayed, f"{summary.position:,}", f"{summary.took_ms / 1_000:.1f} s", wrong)
        made.add_row(literal(cell), *numbers, _compared(summary), f"{summary.open_movement_count:,}")
    console.print(made)
    for problem in done.problems():
        console.print(f"[red bold]not well:[/] {literal(problem)}", soft_wrap=True)
    for cell, findings in done.findings.items():
        tell_findings(console, cell, findings)


def _compared(summary: audit_pb2.ReconcileSummary) -> str:
    if not summary.clearing_cells:
        return "[red]nobody[/]"
    return f"{literal(', '.join(summary.clearing_cells))} at {stamp_text(summary.cut)}"


def tell_findings(console: Console, cell: str, findings: Sequence[Finding]) -> None:
    for finding in findings:
        console.print()
        console.print(f"[bold]{literal(cell)}: {literal(finding.check)}[/bold] {literal(finding.row)}", soft_wrap=True)
        console.print(f"  expected  {literal(finding.expected)}", soft_wrap=True)
        console.print(f"  [red]found[/red]     {literal(finding.found)}", soft_wrap=True)


def tell_rebuilt(console: Console, summary: audit_pb2.RebuildSummary, left: Sequence[Finding]) -> None:
    console.print(
        f"[bold]{literal(summary.cell)}[/bold]: {summary.found_count:,} mismatches were found, "
        f"{summary.left_count:,} are left. Put right: {summary.state_count:,} states, "
        f"{summary.house_count:,} balances of house accounts, {summary.row_count:,} other rows. "
        f"The tables are as the log at position {summary.position:,}.",
        soft_wrap=True,
    )
    tell_findings(console, summary.cell, left)
