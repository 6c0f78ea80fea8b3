"""Past moments on the wire, and the state at them: balances, statements, checks of a stream."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from cellbook.v1 import audit_pb2 as pb
from cellbook.v1 import ledger_pb2, types_pb2
from cells.audit.checks.checked import UNREADABLE
from cells.audit.history.moments import Moment, Point
from cells.audit.history.ports import Buckets
from cells.audit.history.questions import balance_after
from cells.audit.history.statement import Movement, Page, Span, StatementCursor, Total
from cells.audit.reconcile.trial import TrialBalance
from cells.domain.audit.refusals import SumTooLarge
from cells.domain.time.hlc import Stamp
from cells.domain.values import AMOUNT_MAX_MINOR, CURRENCY_EXPONENTS, Posting
from cells.outcomes import Asker
from cells.requests import Read
from cells.store.ports import POSITION_MAX, AccountEntryRow
from cells.uuids import uuid_from
from server.shell.fields.bounds import PAST_POSITION, STAMP, invalid, number_in
from server.wire.convert import to_proto
from server.wire.fields import CODE_LENGTH, parse_currency, parse_stamp
from server.wire.pages import Tokens, cut

_UUID_BYTES, _POSITION_BYTES = 16, 8


def parse_moment(message: types_pb2.AsOf, field: str = "as_of") -> Moment:
    match message.WhichOneof("moment"):
        case "position":
            return Moment(position=number_in(message.position, f"{field}.position", PAST_POSITION))
        case "hlc":
            return Moment(stamp=parse_stamp(message.hlc, f"{field}.hlc"))
        case "time_ms":
            return Moment(time_ms=number_in(message.time_ms, f"{field}.time_ms", STAMP))
        case _:
            raise invalid(field, "names no moment: set position, hlc or time_ms")


def point_to_proto(point: Point, cell: str) -> types_pb2.AsOfPoint:
    return to_proto(types_pb2.AsOfPoint, point, cell=cell, hlc=point.stamp)


def read_at(read: Read[Any], point: Point | None, cell: str) -> dict[str, object]:
    """Fields of every answer about a state: a position that it includes, and the past moment that it is of, if any."""
    token = types_pb2.PositionToken(cell=cell, position=read.position)
    return {"token": token, "as_of": point_to_proto(point, cell) if point is not None else None}


# --- all accounts ---------------------------------------------------------------------------------------------


class BalancesCursor(NamedTuple):
    """Where a list of balances continues: after an account and currency, as of a position."""

    position: int
    account_id: UUID
    currency: str


def _read_cursor(raw: bytes) -> BalancesCursor:
    position, rest = int.from_bytes(raw[:_POSITION_BYTES]), raw[_POSITION_BYTES:]
    cursor = BalancesCursor(position, uuid_from(rest[:_UUID_BYTES]), rest[_UUID_BYTES:].decode("ascii"))
    if len(cursor.currency) > CODE_LENGTH or position > POSITION_MAX:
        raise ValueError(cursor)
    return cursor


CURSORS = Tokens(
    read=_read_cursor,
    write=lambda place: place.position.to_bytes(_POSITION_BYTES) + place.account_id.bytes + place.currency.encode(),
)


def listed_to_proto(
    rows: Sequence[tuple[UUID, str, AccountEntryRow | None]], size: int, point: Point, cell: str
) -> pb.ListBalancesResponse:
    page, last = cut(rows, size)
    return pb.ListBalancesResponse(
        balances=[
            pb.UserBalance(
                user_id=str(account_id), balance=to_proto(ledger_pb2.Balance, balance_after(entry), currency=currency)
            )
            for account_id, currency, entry in page
            if entry is not None
        ],
        as_of=point_to_proto(point, cell),
        next_page_token=CURSORS.token(BalancesCursor(point.position, *last[:2]) if last is not None else None),
    )


def trial_to_proto(trial: TrialBalance, cell: str) -> pb.GetTrialBalanceResponse:
    """Raises SumTooLarge: each account is within 64 bits, but the sum of all users need not be."""
    for (account, currency), amount_minor in trial.sums.items():
        if abs(amount_minor) > AMOUNT_MAX_MINOR:
            raise SumTooLarge(account=account, currency=currency, amount_minor=str(amount_minor))
    return to_proto(
        pb.GetTrialBalanceResponse,
        accounts=[Posting(*key, amount_minor) for key, amount_minor in trial.sums.items()],
        as_of=point_to_proto(trial.point, cell),
    )


# --- statements -------------------------------------------------------------------------------------------------


class Bookmark(NamedTuple):
    """Where a statement continues, and the positions that it covers."""

    after: int
    until: int
    place: StatementCursor


def _read_bookmark(raw: bytes) -> Bookmark:
    *numbers, currency = raw.decode("ascii").split(".")
    after, until, position = map(int, numbers)
    if not 0 <= after <= position <= until <= POSITION_MAX or currency not in CURRENCY_EXPONENTS:
        raise ValueError(raw)
    return Bookmark(after, until, StatementCursor(currency, position))


BOOKMARKS = Tokens(
    read=_read_bookmark,
    write=lambda at: f"{at.after}.{at.until}.{at.place.position}.{at.place.currency}".encode(),
    of="a statement",
)


def parse_moments(request: pb.GetStatementRequest) -> tuple[Moment | None, Moment | None]:
    after = parse_moment(getattr(request, "from"), "from") if request.HasField("from") else None
    return after, parse_moment(request.to, "to") if request.HasField("to") else None


def parse_wanted_currency(text: str) -> str:
    """Empty: all currencies."""
    return parse_currency(text, "currency") if text else ""


def statement_to_proto(
    span: Span, page: Page, totals: Sequence[Total], cell: str, asker: Asker
) -> pb.GetStatementResponse:
    place = page.next_place
    next_place = Bookmark(span.after.position, span.until.position, place) if place is not None else None
    return pb.GetStatementResponse(
        movements=[_movement_to_proto(movement, asker) for movement in page.movements],
        totals=[
            to_proto(pb.StatementTotal, total, **_balances(total, "opening", "closing", "change")) for total in totals
        ],
        to=point_to_proto(span.until, cell),
        next_page_token=BOOKMARKS.token(next_place),
        # A Python keyword.
        **{"from": point_to_proto(span.after, cell)},
    )


def _movement_to_proto(movement: Movement, asker: Asker) -> pb.Movement:
    """A command's id is shown only to the parties of the command: the payer's command is not shown to the payee."""
    row = movement.row
    principal, command_id = command_in(row.metadata)
    hidden = command_id if not asker.may_know(principal, row.user_id) else ""
    return to_proto(
        pb.Movement,
        row,
        hlc=Stamp(row.hlc_physical, row.hlc_logical),
        counter_postings=movement.counter_postings,
        cause_event_type=movement.cause_event_type,
        # A flow begun by a command has the command's id.
        correlation_id=row.correlation_id if str(row.correlation_id) != hidden else "",
        command_id=command_id if not hidden else "",
        principal=principal,
        **_balances(movement, "before", "change", "after"),
    )


def command_in(metadata: str) -> tuple[str, str]:
    """The sender and the id of the command that an event names; empty if its metadata cannot be read."""
    try:
        said = json.loads(metadata)
        return str(said["principal"]), str(said["command_id"])
    except UNREADABLE:
        return "", ""


def _balances(source: Movement | Total, *names: str) -> dict[str, object]:
    return {name: _buckets_to_proto(source.currency, getattr(source, name)) for name in names}


def _buckets_to_proto(currency: str, buckets: Buckets) -> ledger_pb2.Balance:
    available, reserved, pending = buckets
    return ledger_pb2.Balance(
        currency=currency, available_minor=available, reserved_minor=reserved, pending_minor=pending
    )
