"""AuditService: statements."""

from cellbook.v1 import audit_pb2 as pb
from cellbook.v1.audit_pb2_grpc import AuditServiceServicer
from cells.audit.history.moments import Moment
from server.services.accesses import note_access
from server.services.audit_parts import AuditParts, Context, map_store_errors
from server.shell.calls.call import current_call
from server.wire import statement as wire
from server.wire.common import asker_of, parse_page_size, parse_uuid


class StatementRpcs(AuditServiceServicer):
    parts: AuditParts

    async def GetStatement(self, request: pb.GetStatementRequest, _context: Context) -> pb.GetStatementResponse:
        user_id, size = parse_uuid(request.user_id, "user_id"), parse_page_size(request.page_size)
        note_access(self.parts.cell.accesses, user_id)
        currency, bookmark = wire.parse_currency(request.currency), wire.parse_bookmark(request.page_token)
        after, until = wire.parse_moments(request)
        if bookmark is not None:
            after, until = Moment(position=bookmark.after), Moment(position=bookmark.until)
        statements = self.parts.statements
        span = await map_store_errors(statements.span(user_id, after, until))
        place = bookmark.place if bookmark is not None else None
        page = await map_store_errors(statements.page(user_id, span, currency, place, size))
        totals = await map_store_errors(statements.totals(user_id, span, currency)) if place is None else []
        return wire.statement_to_proto(span, page, totals, self.parts.cell.name, asker_of(current_call().principal))
