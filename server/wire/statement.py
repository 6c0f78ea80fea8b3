"""AuditService: statements."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import NamedTuple

from cellbook.v1 import audit_pb2, ledger_pb2, types_pb2
from cells.audit.checks.checked import UNREADABLE
from cells.audit.history.moments import Moment
from cells.audit.history.statement import Buckets, Movement, Page, Span, StatementCursor, Total
from cells.domain.refusals import UnknownCurrency
from cells.domain.time.hlc import Stamp
from cells.domain.values import CURRENCY_EXPONENTS
from cells.encoding.codec import microseconds
from cells.known_commands import Asker
from server.shell.fields.bounds import invalid
from server.wire.common import id_to_proto, stamp_to_proto
from server.wire.history import POSITION_MAX, parse_moment, point_to_proto


class Bookmark(NamedTuple):
    """Where a statement continues, and the positions that it covers."""

    after: int
    until: int
    place: StatementCursor


def bookmark_to_proto(bookmark: Bookmark) -> str:
    numbers = (bookmark.after, bookmark.until, bookmark.place.position)
    text = ".".join([*map(str, numbers), bookmark.place.currency])
    return urlsafe_b64encode(text.encode()).decode()


def parse_bookmark(token: str) -> Bookmark | None:
    """None: the statement begins."""
    if not token:
        return None
    try:
        *numbers, currency = urlsafe_b64decode(token.encode()).decode("ascii").split(".")
        after, until, position = map(int, numbers)
        bookmark = Bookmark(after, until, StatementCursor(currency, position))
    except ValueError:
        raise invalid("page_token", "is not a token of a statement", token) from None
    fits = 0 <= after <= position <= until <= POSITION_MAX and currency in CURRENCY_EXPONENTS
    if not fits or bookmark_to_proto(bookmark) != token:
        raise invalid("page_token", "is not a token of a statement", token)
    return bookmark


def parse_moments(request: audit_pb2.GetStatementRequest) -> tuple[Moment | None, Moment | None]:
    after = parse_moment(getattr(request, "from"), "from") if request.HasField("from") else None
    return after, parse_moment(request.to, "to") if request.HasField("to") else None


def parse_currency(text: str) -> str:
    """Empty: all currencies."""
    if text and text not in CURRENCY_EXPONENTS:
        raise UnknownCurrency(field="currency", currency=text[:80])
    return text


def statement_to_proto(
    span: Span, page: Page, totals: list[Total], cell: str, asker: Asker
) -> audit_pb2.GetStatementResponse:
    token = ""
    if page.next_place is not None:
        token = bookmark_to_proto(Bookmark(span.after.position, span.until.position, page.next_place))
    return audit_pb2.GetStatementResponse(
        movements=[_movement_to_proto(movement, asker) for movement in page.movements],
        totals=map(_total_to_proto, totals),
        to=point_to_proto(span.until, cell),
        next_page_token=token,
        # A Python keyword.
        **{"from": point_to_proto(span.after, cell)},
    )


def _movement_to_proto(movement: Movement, asker: Asker) -> audit_pb2.Movement:
    """A command's id is shown only to the parties of the command: the payer's command is not shown to the payee."""
    row, currency = movement.row, movement.currency
    metadata = _metadata(row.metadata)
    command_id, principal = metadata.get("command_id", ""), metadata.get("principal", "")
    hidden = command_id if not asker.may_know(principal, row.user_id) else ""
    return audit_pb2.Movement(
        position=row.position,
        hlc=stamp_to_proto(Stamp(row.hlc_physical, row.hlc_logical)),
        recorded_at_us=microseconds(row.recorded_at),
        event_id=str(row.event_id),
        event_type=row.event_type,
        before=_buckets_to_proto(currency, movement.before),
        change=_buckets_to_proto(currency, movement.change),
        after=_buckets_to_proto(currency, movement.after),
        counter_postings=[types_pb2.Posting(**line._asdict()) for line in movement.counter_postings],
        causation_id=id_to_proto(row.causation_id),
        cause_event_type=movement.cause_event_type,
        # A flow begun by a command has the command's id.
        correlation_id=str(row.correlation_id) if str(row.correlation_id) != hidden else "",
        command_id=command_id if not hidden else "",
        principal=principal,
    )


def _metadata(text: str) -> dict[str, str]:
    try:
        said = json.loads(text)
        return {name: str(said[name]) for name in ("command_id", "principal")}
    except UNREADABLE:
        return {}


def _total_to_proto(total: Total) -> audit_pb2.StatementTotal:
    return audit_pb2.StatementTotal(
        opening=_buckets_to_proto(total.currency, total.opening),
        closing=_buckets_to_proto(total.currency, total.closing),
        change=_buckets_to_proto(total.currency, total.change),
        movements=total.movements,
        proved=total.proved,
    )


def _buckets_to_proto(currency: str, buckets: Buckets) -> ledger_pb2.Balance:
    available, reserved, pending = buckets
    return ledger_pb2.Balance(
        currency=currency, available_minor=available, reserved_minor=reserved, pending_minor=pending
    )
