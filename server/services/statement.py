"""AuditService: statements."""

from cellbook.v1 import audit_pb2 as pb
from cellbook.v1.audit_pb2_grpc import AuditServiceServicer
from cells.audit.moments import Moment
from server.services.accesses import note_access
from server.services.audit_parts import AuditParts, Context, told
from server.shell.call import current_call
from server.wire import statement as wire
from server.wire.common import asker_of, page_size_in, uuid_in


class StatementRpcs(AuditServiceServicer):
    parts: AuditParts

    async def GetStatement(self, request: pb.GetStatementRequest, _context: Context) -> pb.GetStatementResponse:
        user_id, size = uuid_in(request.user_id, "user_id"), page_size_in(request.page_size)
        note_access(self.parts.cell.accesses, user_id)
        currency, bookmark = wire.currency_in(request.currency), wire.bookmark_in(request.page_token)
        after, until = wire.moments_in(request)
        if bookmark is not None:
            after, until = Moment(position=bookmark.after), Moment(position=bookmark.until)
        statements = self.parts.statements
        span = await told(statements.span(user_id, after, until))
        place = bookmark.place if bookmark is not None else None
        page = await told(statements.page(user_id, span, currency, place, size))
        totals = await told(statements.totals(user_id, span, currency)) if place is None else []
        return wire.statement_out(span, page, totals, self.parts.cell.name, asker_of(current_call().principal))
