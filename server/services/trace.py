"""AuditService: traces."""

from cellbook.v1 import audit_pb2 as pb
from cellbook.v1.audit_pb2_grpc import AuditServiceServicer
from cells.domain.audit_refusals import NothingToTrace
from server.services.audit_parts import AuditParts, Context, told
from server.wire import trace as wire


class TraceRpcs(AuditServiceServicer):
    parts: AuditParts

    async def Trace(self, request: pb.TraceRequest, _context: Context) -> pb.TraceResponse:
        subject, event_max = wire.subject_in(request.subject), wire.event_max_in(request.event_max)
        trace = await told(self.parts.tracer.trace(subject, event_max))
        # What is not there may be in a cell that has said nothing: only all of them together can say no.
        if not trace.nodes and not trace.missing and not trace.refused:
            raise NothingToTrace(subject=request.subject, cells=", ".join(trace.cells))
        return wire.trace_out(trace)

    async def FindEvents(self, request: pb.FindEventsRequest, _context: Context) -> pb.FindEventsResponse:
        search, event_max = wire.search_in(request), wire.event_max_in(request.event_max)
        return wire.found_out(await told(self.parts.tracer.finder.find(search, event_max)))
