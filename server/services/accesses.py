"""AuditService: reads by staff, as the cell's other processes report them to the one that leads."""

from uuid import UUID

from cellbook.v1 import audit_pb2 as pb
from cellbook.v1.audit_pb2_grpc import AuditServiceServicer
from cells.audit.accesses import AccessLog
from cells.domain.commands import RecordAccesses
from cells.domain.refusals import NotPermitted
from server.services.audit_parts import AuditParts, Context
from server.shell.calls.call import current_call
from server.shell.identity.principal import Role
from server.wire import accesses as wire
from server.wire.common import parse_author

# Their reads are recorded. Users read their own accounts, services show them to users, cells and routers move them.
STAFF = frozenset({Role.AUDITOR, Role.OPERATOR, Role.TREASURY, Role.DELEGATE})


def note_access(accesses: AccessLog, subject: UUID | int | None = None) -> None:
    """Records in the log a read of `subject`, an id or a position, or of all. Raises AccessLogFull."""
    call = current_call()
    if call.principal.role in STAFF:
        accesses.note(str(call.principal), call.method.rpartition("/")[2], str(subject or ""))


class AccessRpcs(AuditServiceServicer):
    parts: AuditParts

    async def RecordAccesses(self, request: pb.RecordAccessesRequest, _context: Context) -> pb.RecordAccessesResponse:
        call, command = current_call(), RecordAccesses(accesses=wire.parse_accesses(request))
        # No other cell may report reads here.
        if call.principal.name != self.parts.cell.name:
            raise NotPermitted(principal=str(call.principal), method=call.method)
        await self.parts.cell.writer.record(command, parse_author(call))
        return pb.RecordAccessesResponse()
