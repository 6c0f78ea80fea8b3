"""AuditService: recorded reads by staff."""

from collections.abc import Sequence

from cellbook.v1 import audit_pb2 as pb
from cells.domain.audit.events import Access
from server.shell.fields.bounds import ACCESSES, EVENT_TYPE, PRINCIPAL_OR_NONE, TIME, items_in, number_in, text_in


def parse_accesses(request: pb.RecordAccessesRequest) -> tuple[Access, ...]:
    """Raises FieldInvalid."""
    items_in(request.accesses, "accesses", ACCESSES)
    return tuple(
        Access(
            principal=text_in(each.principal, "accesses.principal", PRINCIPAL_OR_NONE),
            method=text_in(each.method, "accesses.method", EVENT_TYPE),
            subject=text_in(each.subject, "accesses.subject", PRINCIPAL_OR_NONE),
            minute_ms=number_in(each.minute_ms, "accesses.minute_ms", TIME),
        )
        for each in request.accesses
    )


def accesses_to_proto(accesses: Sequence[Access]) -> pb.RecordAccessesRequest:
    return pb.RecordAccessesRequest(
        accesses=[
            pb.ReadAccess(principal=each.principal, method=each.method, subject=each.subject, minute_ms=each.minute_ms)
            for each in accesses
        ]
    )
