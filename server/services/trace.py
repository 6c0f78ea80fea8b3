"""AuditService: traces."""

from cellbook.v1 import audit_pb2 as pb
from cellbook.v1.audit_pb2_grpc import AuditServiceServicer
from cells.audit.history.trace import Search
from cells.domain.audit.refusals import NothingToTrace
from cells.domain.refusals import NotPermitted
from cells.domain.values import Kind
from cells.encoding.codec import kind_of
from cells.store.ports import EventRow
from server.services.accesses import note_access
from server.services.audit_parts import AuditParts, Context, map_store_errors
from server.shell.calls.call import current_call
from server.shell.identity.principal import Role
from server.wire import trace as wire


class TraceRpcs(AuditServiceServicer):
    parts: AuditParts

    async def Trace(self, request: pb.TraceRequest, _context: Context) -> pb.TraceResponse:
        subject, event_max = wire.parse_subject(request.subject), wire.parse_event_max(request.event_max)
        note_access(self.parts.cell.accesses, subject)
        trace = await map_store_errors(self.parts.tracer.trace(subject, event_max))
        # An event that is not found may be in a silent cell: only all cells together can say that it does not exist.
        if not trace.nodes and not trace.missing and not trace.refused:
            raise NothingToTrace(subject=request.subject, cells=", ".join(trace.cells))
        return wire.trace_to_proto(trace)

    async def FindEvents(self, request: pb.FindEventsRequest, _context: Context) -> pb.FindEventsResponse:
        search, event_max = wire.parse_search(request), wire.parse_event_max(request.event_max)
        note_access(self.parts.cell.accesses, search.subject)
        answer, call = await map_store_errors(self.parts.tracer.finder.find(search, event_max)), current_call()
        # Flows cross cells, and so do traces; a user's other activity is not for other cells to see.
        if call.principal.role is Role.PEER and any(_is_of_account(each.row, search) for each in answer.found):
            raise NotPermitted(principal=str(call.principal), method=call.method)
        return wire.found_to_proto(answer)


def _is_of_account(row: EventRow, search: Search) -> bool:
    return row.aggregate_id == search.subject and kind_of(row.event_type) is Kind.ACCOUNT
