"""The last pass of each cell with its findings, and a rebuild of its tables with a reason."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import ClassVar

from starlette.requests import Request
from starlette.responses import Response

from cellbook.v1 import audit_pb2
from server.cli.client import CellStubs
from server.console.console import cell_in, console_of, ledger_of, render
from server.console.operator.cells import STATUS
from server.console.operator.jobs import Job
from server.console.operator.status import look
from server.console.pages import get, post
from server.console.serving import require_confirmed, require_reason, see
from server.console.visitor import current_visitor

REBUILD = "AuditService.Rebuild"


@dataclass(slots=True, kw_only=True)
class Rebuild(Job[audit_pb2.RebuildResponse]):
    name: ClassVar[str] = "rebuild"
    stubs: CellStubs
    note: str
    progress: audit_pb2.AuditProgress | None = None
    left: list[audit_pb2.AuditFinding] = field(default_factory=list)
    summary: audit_pb2.RebuildSummary | None = None

    def stream(self) -> AsyncGenerator[audit_pb2.RebuildResponse, None]:
        return self.stubs.items(self.stubs.audit.Rebuild, audit_pb2.RebuildRequest(note=self.note))

    def take(self, reply: audit_pb2.RebuildResponse) -> None:
        if reply.HasField("progress"):
            self.progress = reply.progress
        elif reply.HasField("left"):
            self.left.append(reply.left)
        else:
            self.summary = reply.summary


@get("/operator/tables", STATUS, REBUILD, title="Rebuild")
async def tables(request: Request) -> Response:
    cells = await look(ledger_of(request))
    return render(request, "operator/rebuild.html", cells=cells, rebuilds=console_of(request).rebuilds.by_cell)


@post("/operator/tables/{cell}/rebuild", REBUILD)
async def rebuild(request: Request) -> Response:
    await require_confirmed(request)
    note = await require_reason(request)
    cell = await cell_in(request)
    by = str(current_visitor().principal)
    console_of(request).rebuilds.start(Rebuild(cell=cell.name, by=by, stubs=cell, note=note))
    return see("/operator/tables")
