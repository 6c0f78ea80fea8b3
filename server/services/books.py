"""AuditService: the tables compared with the log and with other cells, and repaired."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Generic, TypeVar

from cellbook.v1 import audit_pb2 as pb
from cellbook.v1.audit_pb2_grpc import AuditServiceServicer
from cells.audit.reconcile.findings import Progress
from cells.audit.reconcile.passes import Order, Tell
from cells.domain.refusals import NotPermitted
from server.services.audit_parts import AuditParts, Context, map_store_errors
from server.shell.calls.call import current_call
from server.shell.identity.principal import Role
from server.wire import books as wire
from server.wire.common import parse_author

T = TypeVar("T")

# Often enough for a progress bar.
PROGRESS_EVERY_S = 0.2


class BooksRpcs(AuditServiceServicer):
    parts: AuditParts

    async def Reconcile(
        self, request: pb.ReconcileRequest, _context: Context
    ) -> AsyncGenerator[pb.ReconcileResponse, None]:
        author = parse_author(current_call())
        order = Order(full=request.full, events_per_s=wire.parse_events_per_s(request))
        work = _Told(lambda tell: self.parts.books.reconciliation.reconcile(order, author=author, tell=tell))
        async for progress in work.progress():
            yield pb.ReconcileResponse(progress=wire.progress_to_proto(progress))
        found = work.result()
        for finding in found.findings:
            yield pb.ReconcileResponse(finding=wire.finding_to_proto(finding))
        yield pb.ReconcileResponse(summary=wire.summary_to_proto(found))

    async def ListClearing(self, request: pb.ListClearingRequest, _context: Context) -> pb.ListClearingResponse:
        wanted, principal = wire.parse_sides_wanted(request), current_call().principal
        # Only the two cells concerned may see movements between them.
        if principal.role is Role.PEER and principal.name != wanted.peer:
            raise NotPermitted(principal=str(principal), method=current_call().method)
        return wire.sides_to_proto(await map_store_errors(self.parts.books.local_clearing.sides(wanted)))

    async def Rebuild(self, request: pb.RebuildRequest, _context: Context) -> AsyncGenerator[pb.RebuildResponse, None]:
        note, author = wire.parse_note(request), parse_author(current_call())
        work = _Told(lambda tell: self.parts.books.reconciliation.rebuild(author=author, note=note, tell=tell))
        async for progress in work.progress():
            yield pb.RebuildResponse(progress=wire.progress_to_proto(progress))
        rebuilt = work.result()
        for finding in rebuilt.after.findings:
            yield pb.RebuildResponse(left=wire.finding_to_proto(finding))
        yield pb.RebuildResponse(summary=wire.rebuilt_to_proto(rebuilt))


class _Told(Generic[T]):
    """Work that reports its progress; it ends when its listener does."""

    def __init__(self, begin: Callable[[Tell], Awaitable[T]]) -> None:
        self._latest: Progress | None = None
        self._task = asyncio.ensure_future(map_store_errors(begin(self._tell)))

    def _tell(self, progress: Progress) -> None:
        self._latest = progress

    async def progress(self) -> AsyncGenerator[Progress, None]:
        try:
            while not self._task.done():
                await asyncio.wait([self._task], timeout=PROGRESS_EVERY_S)
                latest, self._latest = self._latest, None
                if latest is not None:
                    yield latest
        finally:
            if not self._task.done():
                self._task.cancel()
                await asyncio.wait([self._task])

    def result(self) -> T:
        return self._task.result()
