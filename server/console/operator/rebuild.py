"""The last pass of each cell with its findings, and a rebuild of its tables with a reason."""

from contextlib import aclosing
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

from cellbook.v1 import audit_pb2
from cells.background import BackgroundTask, note_failure
from server.cli.client import CellStubs, ClientError, LedgerRefusal
from server.console.console import ledger_of, render
from server.console.operator.cells import STATUS
from server.console.operator.status import look
from server.console.pages import Page
from server.console.serving import BadInput, require_confirmed, require_reason, see
from server.console.visitor import current_visitor

REBUILD = "AuditService.Rebuild"


@dataclass(slots=True, kw_only=True)
class Rebuild:
    """One that a visitor has started, under way or ended. It would end with its listener: the console listens."""

    cell: CellStubs
    note: str
    by: str
    progress: audit_pb2.AuditProgress | None = None
    left: list[audit_pb2.AuditFinding] = field(default_factory=list)
    summary: audit_pb2.RebuildSummary | None = None
    problem: str = ""
    task: BackgroundTask = field(init=False)

    def __post_init__(self) -> None:
        self.task = BackgroundTask(name="console_rebuild", work=self.run, every_s=None)

    async def run(self) -> None:
        wanted = audit_pb2.RebuildRequest(note=self.note)
        try:
            async with aclosing(self.cell.items(self.cell.audit.Rebuild, wanted)) as stream:
                async for told in stream:
                    self._take(told)
        except (ClientError, LedgerRefusal) as error:
            self.problem = str(error)
        except Exception as error:  # noqa: BLE001 - it must not begin again by itself, as a background task does
            note_failure(self.task.name)
            self.problem = f"the console has stopped following it: {type(error).__name__}"

    def _take(self, told: audit_pb2.RebuildResponse) -> None:
        if told.HasField("progress"):
            self.progress = told.progress
        elif told.HasField("left"):
            self.left.append(told.left)
        else:
            self.summary = told.summary


@dataclass(slots=True)
class Rebuilds:
    """The last one of each cell."""

    by_cell: dict[str, Rebuild] = field(default_factory=dict)

    def start(self, begun: Rebuild) -> None:
        """Raises BadInput: one is under way."""
        last = self.by_cell.get(begun.cell.name)
        if last is not None and last.task.running:
            raise BadInput(f"a rebuild of {begun.cell.name}, by {last.by}, is under way: wait for its end")
        self.by_cell[begun.cell.name] = begun
        begun.task.start()


def rebuilds_of(request: Request) -> Rebuilds:
    rebuilds: Rebuilds = request.app.state.rebuilds
    return rebuilds


async def tables(request: Request) -> Response:
    cells = await look(ledger_of(request))
    return render(request, "operator/rebuild.html", cells=cells, rebuilds=rebuilds_of(request).by_cell)


async def rebuild(request: Request) -> Response:
    await require_confirmed(request)
    note = await require_reason(request)
    cell = (await ledger_of(request).reach(request.path_params["cell"])).only
    rebuilds_of(request).start(Rebuild(cell=cell, note=note, by=str(current_visitor().principal)))
    return see("/operator/tables")


PAGES = (
    Page(path="/operator/tables", view=tables, needs=(STATUS, REBUILD), title="Rebuild"),
    Page(path="/operator/tables/{cell}/rebuild", view=rebuild, needs=(REBUILD,), method="POST"),
)
