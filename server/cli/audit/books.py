"""`cellbook audit reconcile` and `rebuild`: compare the tables of cells with their logs, and repair them."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from grpc import aio
from rich.console import Console
from rich.table import Table

from cellbook.v1 import audit_pb2
from server.cli import report
from server.cli.access import chosen_access
from server.cli.audit.ask import AUDITOR
from server.cli.client import CellStubs, ClientError, LedgerRefusal, unknown_in
from server.cli.progress import Progress, Stage
from server.cli.reach import OPERATOR, Reach
from server.cli.screen import literal
from server.cli.texts import stamp_text

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
        told = [
            f"{cell}: {summary.finding_count:,} mismatches"
            for cell, summary in self.summaries.items()
            if summary.finding_count
        ]
        for cell, summary in self.summaries.items():
            told += [
                f"{cell} could not compare movements with {each.cell or 'all cells'} ({each.problem})"
                for each in summary.missing
            ]
        return told + [f"{cell} is missing ({problem})" for cell, problem in sorted(self.silent.items())]


async def run_reconcile(reach: Reach, *, full: bool, events_per_s: int, as_json: bool) -> None:
    """Prints the results, then raises ClientError if something is wrong or missing."""
    done = await reconciled(reach, audit_pb2.ReconcileRequest(full=full, events_per_s=events_per_s))
    if as_json:
        print(json.dumps(reconciled_json(done), indent=2))
    else:
        with report.stdout() as console:
            tell_reconciled(console, done)
    problems = done.problems()
    if problems:
        raise ClientError("; ".join(problems))


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
    async for told in _told(cell, cell.audit.Reconcile, request, AUDITOR):
        if told.HasField("finding"):
            findings.append(told.finding)
        else:
            done.summaries[cell.name], done.findings[cell.name] = told.summary, findings


async def run_rebuild(reach: Reach, note: str, *, as_json: bool) -> None:
    """Rebuilds the cell that is reached. Raises ClientError if something is still wrong."""
    if len(reach.cells) != 1:
        raise ClientError(f"name the cell by --cell: one of {', '.join(cell.name for cell in reach.cells)}")
    [cell] = reach.cells
    request, left, summary = audit_pb2.RebuildRequest(note=note), list[Finding](), audit_pb2.RebuildSummary()
    async for told in _told(cell, cell.audit.Rebuild, request, OPERATOR):
        if told.HasField("left"):
            left.append(told.left)
        else:
            summary = told.summary
    if as_json:
        print(json.dumps({**_plain(summary), "left": [_plain(each) for each in left]}, indent=2))
    else:
        with report.stdout() as console:
            tell_rebuilt(console, summary, left)
    if summary.row_problem:
        raise ClientError(f"{cell.name}: rows were left, as the owner of the tables is needed: {summary.row_problem}")
    if summary.left_count:
        raise ClientError(f"{cell.name}: {summary.left_count:,} mismatches are left, which no rebuild puts right")


async def _told(
    cell: CellStubs, method: Callable[..., "aio.UnaryStreamCall[Any, Reply]"], request: Message, principal: str
) -> AsyncIterator[Reply]:
    """The cell's result; its progress is displayed. Raises ClientError, LedgerRefusal."""
    stream = method(request, metadata=chosen_access().metadata(principal))
    progress = Progress(report.stderr())
    shown, stage, name = ExitStack(), None, ""
    try:
        async for told in stream:
            if not told.HasField("progress"):
                yield told
                continue
            if told.progress.stage != name:
                shown.close()
                name = told.progress.stage
                stage = shown.enter_context(progress.stage(f"{cell.name}: {name}", told.progress.total))
            _show(stage, told.progress)
    except aio.AioRpcError as error:
        raise ClientError(f"{cell.name}: {unknown_in(error, request).told}") from error
    finally:
        shown.close()
        stream.cancel()


def _show(stage: Stage | None, progress: audit_pb2.AuditProgress) -> None:
    if stage is not None:
        stage.left(progress.total - progress.done)


# --- for programs -------------------------------------------------------------------------------------------------


def reconciled_json(done: Reconciled) -> dict[str, Any]:
    cells = [
        {**_plain(summary), "findings": [_plain(finding) for finding in done.findings[cell]]}
        for cell, summary in done.summaries.items()
    ]
    return {"well": not done.problems(), "cells": cells, "silent": done.silent}


def _plain(message: Message) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


# --- for people ---------------------------------------------------------------------------------------------------


def tell_reconciled(console: Console, done: Reconciled) -> None:
    table = _table("cell", "events replayed", "as at position", "took", "mismatches", "movements compared with", "open")
    for column in (1, 2, 3, 4, 6):
        table.columns[column].justify = "right"
    for cell, summary in done.summaries.items():
        wrong = f"[red bold]{summary.finding_count:,}[/]" if summary.finding_count else "[green]0[/]"
        table.add_row(
            literal(cell),
            f"{summary.position - summary.from_position:,}{' (all)' if summary.full else ''}",
            f"{summary.position:,}",
            f"{summary.took_ms / 1_000:.1f} s",
            wrong,
            _compared(summary),
            f"{summary.open_movement_count:,}",
        )
    console.print(table)
    for problem in done.problems():
        console.print(f"[red bold]not well:[/] {literal(problem)}", soft_wrap=True)
    for cell, findings in done.findings.items():
        tell_findings(console, cell, findings)


def _compared(summary: audit_pb2.ReconcileSummary) -> str:
    if not summary.clearing_cells:
        return "[red]nobody[/]"
    return f"{literal(', '.join(summary.clearing_cells))} at {stamp_text(summary.cut.physical_ms, summary.cut.logical)}"


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


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
