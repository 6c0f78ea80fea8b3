"""AuditService: traces, the past, proofs and exports, the tables compared and repaired, reads by staff."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar
from uuid import UUID

from cellbook.v1 import audit_pb2 as pb
from cellbook.v1.audit_pb2_grpc import AuditServiceServicer
from cells.audit.history.moments import Moment
from cells.audit.history.stream_verification import verify_stream
from cells.audit.history.trace import Search
from cells.audit.reconcile.findings import Order, Progress, Tell
from cells.audit.reconcile.rebuild import rebuild
from cells.domain.audit.refusals import NothingToTrace
from cells.domain.commands import RecordAccesses
from cells.domain.refusals import NotPermitted
from cells.domain.values import Kind
from cells.encoding.codec import kind_of
from cells.store.failures import map_store_errors
from cells.store.ports import EventRow
from server.services.audit_parts import AuditParts, Context, note_access
from server.shell.calls.call import current_call
from server.shell.fields.bounds import EVENTS_A_SECOND, NOTE, number_in, text_in
from server.shell.fields.parse import NIL, parse_optional_uuid, parse_page_size, parse_uuid
from server.shell.identity.principal import Role
from server.wire import audit, history, trace
from server.wire.convert import parse, to_proto
from server.wire.requests import asker_of, parse_author

T = TypeVar("T")

# Often enough for a progress bar.
PROGRESS_EVERY_S = 0.2


class AuditServicer(AuditServiceServicer):
    def __init__(self, parts: AuditParts) -> None:
        self._parts = parts
        self._proofs = parts.proofs
        self._reconciliation = parts.reconciliation
        self._name = parts.cell.name

    def _note_access(self, subject: UUID | int | None = None) -> None:
        note_access(self._parts.cell.accesses, subject)

    # --- traces ---

    async def Trace(self, request: pb.TraceRequest, _context: Context) -> pb.TraceResponse:
        subject, event_max = trace.parse_subject(request.subject), trace.parse_event_max(request.event_max)
        self._note_access(subject)
        found = await map_store_errors(self._parts.tracer.trace(subject, event_max))
        # An event that is not found may be in a silent cell: only all cells together can say that it does not exist.
        if not found.nodes and not found.missing and not found.refused:
            raise NothingToTrace(subject=request.subject, cells=", ".join(found.cells))
        return trace.trace_to_proto(found)

    async def FindEvents(self, request: pb.FindEventsRequest, _context: Context) -> pb.FindEventsResponse:
        search, event_max = parse(Search, request), trace.parse_event_max(request.event_max)
        self._note_access(search.subject)
        answer = await map_store_errors(self._parts.tracer.finder.find(search, event_max))
        # Flows cross cells, and so do traces; a user's other activity is not for other cells to see.
        if current_call().principal.role is Role.PEER and any(
            _is_of_account(each.row, search) for each in answer.found
        ):
            raise _not_permitted()
        return trace.found_to_proto(answer)

    # --- the past ---

    async def ListBalances(self, request: pb.ListBalancesRequest, _context: Context) -> pb.ListBalancesResponse:
        self._note_access()
        size, place = parse_page_size(request.page_size), history.CURSORS.parse(request.page_token)
        moment = Moment(position=place.position) if place else await self._moment(request)
        point = await map_store_errors(self._parts.history.point(moment))
        after = place or history.BalancesCursor(point.position, NIL, "")
        rows = self._parts.history.lookups.all_balances_at((after.account_id, after.currency), point.position, size + 1)
        return history.listed_to_proto(await map_store_errors(rows), size, point, self._name)

    async def GetTrialBalance(
        self, request: pb.GetTrialBalanceRequest, _context: Context
    ) -> pb.GetTrialBalanceResponse:
        moment = await self._moment(request)
        return history.trial_to_proto(await map_store_errors(self._parts.trial.at(moment)), self._name)

    async def CheckStream(self, request: pb.CheckStreamRequest, _context: Context) -> pb.CheckStreamResponse:
        aggregate_id = parse_uuid(request.aggregate_id, "aggregate_id")
        self._note_access(aggregate_id)
        moment = history.parse_moment(request.as_of) if request.HasField("as_of") else None
        found = await map_store_errors(verify_stream(self._parts.history, aggregate_id, moment))
        as_of = history.point_to_proto(found.point, self._name)
        return to_proto(pb.CheckStreamResponse, found, state_json=found.state, as_of=as_of)

    async def ListHomes(self, request: pb.ListHomesRequest, _context: Context) -> pb.ListHomesResponse:
        after = parse_optional_uuid(request.after_user, "after_user") or NIL
        homes = await map_store_errors(self._parts.history.lookups.homes(after, parse_page_size(request.page_size)))
        return to_proto(pb.ListHomesResponse, homes=homes)

    async def GetStatement(self, request: pb.GetStatementRequest, _context: Context) -> pb.GetStatementResponse:
        user_id, size = parse_uuid(request.user_id, "user_id"), parse_page_size(request.page_size)
        self._note_access(user_id)
        currency = history.parse_wanted_currency(request.currency)
        bookmark = history.BOOKMARKS.parse(request.page_token)
        after, until = history.parse_moments(request)
        if bookmark is not None:
            after, until = Moment(position=bookmark.after), Moment(position=bookmark.until)
        statements = self._parts.statements
        span = await map_store_errors(statements.span(user_id, after, until))
        place = bookmark.place if bookmark is not None else None
        page = await map_store_errors(statements.page(user_id, span, currency, place, size))
        totals = await map_store_errors(statements.totals(user_id, span, currency)) if place is None else []
        return history.statement_to_proto(span, page, totals, self._name, asker_of(current_call().principal))

    async def _moment(self, request: pb.ListBalancesRequest | pb.GetTrialBalanceRequest) -> Moment:
        """The requested moment, or the end of the log."""
        if request.HasField("as_of"):
            return history.parse_moment(request.as_of)
        return Moment(position=(await map_store_errors(self._parts.cell.store.head())).position)

    # --- proofs ---

    async def GetCheckpoint(self, request: pb.GetCheckpointRequest, _context: Context) -> pb.GetCheckpointResponse:
        size, after = audit.parse_size(request.size), audit.parse_size(request.after_size, "after_size")
        return audit.checkpoint_to_proto(await self._proofs.prover.checkpoint(size, after), self._proofs.exporter.keys)

    async def GetInclusionProof(
        self, request: pb.GetInclusionProofRequest, _context: Context
    ) -> pb.GetInclusionProofResponse:
        position, size = audit.parse_size(request.position, "position", optional=False), audit.parse_size(request.size)
        self._note_access(position)
        return audit.inclusion_to_proto(await self._proofs.prover.inclusion(position, size))

    async def GetConsistencyProof(
        self, request: pb.GetConsistencyProofRequest, _context: Context
    ) -> pb.GetConsistencyProofResponse:
        old_size = audit.parse_size(request.old_size, "old_size", optional=False)
        new_size = audit.parse_size(request.new_size, "new_size")
        growth = await self._proofs.prover.consistency(old_size, new_size)
        old, new = growth.old.text, growth.new.text
        return pb.GetConsistencyProofResponse(old_checkpoint=old, new_checkpoint=new, path=growth.path)

    async def Export(self, request: pb.ExportRequest, _context: Context) -> AsyncGenerator[pb.ExportResponse, None]:
        self._note_access()
        async with aclosing(self._proofs.exporter.pieces(audit.parse_wanted(request))) as pieces:
            async for piece in pieces:
                yield to_proto(pb.ExportResponse, piece)

    async def AddCosignature(self, request: pb.AddCosignatureRequest, _context: Context) -> pb.AddCosignatureResponse:
        await self._proofs.cosignatures.add(*audit.parse_cosignature(request))
        return pb.AddCosignatureResponse()

    async def Cosign(self, request: pb.CosignRequest, _context: Context) -> pb.CosignResponse:
        asked = audit.parse_asked(request)
        return pb.CosignResponse(cosignature=await self._proofs.witness.cosign(current_call().principal.name, asked))

    # --- the tables compared with the log and with other cells, and repaired ---

    async def Reconcile(
        self, request: pb.ReconcileRequest, _context: Context
    ) -> AsyncGenerator[pb.ReconcileResponse, None]:
        author = parse_author(current_call())
        events_per_s = number_in(request.events_per_s, "events_per_s", EVENTS_A_SECOND)
        order = Order(full=request.full, events_per_s=events_per_s)
        work = _watched(lambda tell: self._reconciliation.reconcile(order, author=author, tell=tell))
        async with aclosing(work):
            async for result in work:
                if isinstance(result, Progress):
                    yield to_proto(pb.ReconcileResponse, progress=result)
                    continue
                for finding in result.findings:
                    yield to_proto(pb.ReconcileResponse, finding=finding)
                yield pb.ReconcileResponse(summary=audit.summary_to_proto(result))

    async def Rebuild(self, request: pb.RebuildRequest, _context: Context) -> AsyncGenerator[pb.RebuildResponse, None]:
        note, author = text_in(request.note, "note", NOTE), parse_author(current_call())
        work = _watched(lambda tell: rebuild(self._reconciliation, author=author, note=note, tell=tell))
        async with aclosing(work):
            async for result in work:
                if isinstance(result, Progress):
                    yield to_proto(pb.RebuildResponse, progress=result)
                    continue
                for finding in result.after.findings:
                    yield to_proto(pb.RebuildResponse, left=finding)
                yield pb.RebuildResponse(summary=audit.rebuilt_to_proto(result))

    async def ListClearing(self, request: pb.ListClearingRequest, _context: Context) -> pb.ListClearingResponse:
        wanted, principal = audit.parse_sides_wanted(request), current_call().principal
        # Only the two cells concerned may see movements between them.
        if principal.role is Role.PEER and principal.name != wanted.peer:
            raise _not_permitted()
        sides = await map_store_errors(self._reconciliation.clearing.sides(wanted))
        next_id = sides.sides[-1].clearing_id if sides.more else None
        return to_proto(pb.ListClearingResponse, sides, next_page_token=next_id)

    async def RecordAccesses(self, request: pb.RecordAccessesRequest, _context: Context) -> pb.RecordAccessesResponse:
        """Reads by staff, as the cell's other processes report them to the one that leads."""
        command, call = parse(RecordAccesses, request), current_call()
        # No other cell may report reads here.
        if call.principal.name != self._name:
            raise _not_permitted()
        await self._parts.cell.writer.record(command, parse_author(call))
        return pb.RecordAccessesResponse()


def _is_of_account(row: EventRow, search: Search) -> bool:
    return row.aggregate_id == search.subject and kind_of(row.event_type) is Kind.ACCOUNT


def _not_permitted() -> NotPermitted:
    call = current_call()
    return NotPermitted(principal=str(call.principal), method=call.method)


async def _watched(begin: Callable[[Tell], Awaitable[T]]) -> AsyncGenerator[Progress | T, None]:
    """The last progress of the work now and then, and its result. The work ends when its listener does."""
    latest = deque[Progress](maxlen=1)
    task = asyncio.ensure_future(map_store_errors(begin(latest.append)))
    try:
        while not task.done():
            await asyncio.wait([task], timeout=PROGRESS_EVERY_S)
            if latest:
                yield latest.pop()
        yield task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
