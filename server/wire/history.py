"""Past moments on the wire, and the state at them."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from cellbook.v1 import auction_pb2, audit_pb2, ledger_pb2, saga_pb2, types_pb2
from cells.audit.history.moments import Moment, Point
from cells.audit.history.questions import Balances, Past, balance_after
from cells.audit.history.stream_verification import StreamVerification
from cells.audit.reconcile.trial import TrialBalance
from cells.domain.account.account import Account
from cells.domain.auction.asset import Asset
from cells.domain.auction.auction import Auction
from cells.domain.audit.refusals import SumTooLarge
from cells.domain.sagas.saga import Saga
from cells.domain.time.hlc import Stamp
from cells.domain.values import AMOUNT_MAX_MINOR
from cells.requests import Read
from cells.sagas.admin import SagaView
from cells.store.ports import AccountEntryRow, EventRow
from cells.uuids import uuid_from
from server.shell.fields.bounds import (
    LOGICAL,
    PAST_POSITION,
    STAMP,
    invalid,
    number_in,
)
from server.wire import auctions, ledger, sagas
from server.wire.common import CODE_LENGTH, NIL, stamp_to_proto

POSITION_MAX = 2**63 - 1
_UUID_BYTES, _POSITION_BYTES = 16, 8


def parse_moment(message: types_pb2.AsOf, field: str = "as_of") -> Moment:
    match message.WhichOneof("moment"):
        case "position":
            return Moment(position=number_in(message.position, f"{field}.position", PAST_POSITION))
        case "hlc":
            physical_ms = number_in(message.hlc.physical_ms, f"{field}.hlc.physical_ms", STAMP)
            logical = number_in(message.hlc.logical, f"{field}.hlc.logical", LOGICAL)
            return Moment(stamp=Stamp(physical_ms, logical))
        case "time_ms":
            return Moment(time_ms=number_in(message.time_ms, f"{field}.time_ms", STAMP))
        case _:
            raise invalid(field, "names no moment: set position, hlc or time_ms")


def point_to_proto(point: Point, cell: str) -> types_pb2.AsOfPoint:
    return types_pb2.AsOfPoint(
        cell=cell, position=point.position, hlc=stamp_to_proto(point.stamp), recorded_at_us=point.recorded_at_us
    )


# --- the ordinary answers, at a past moment --------------------------------------------------------------------------


def balances_to_proto(user_id: UUID, past: Balances, cell: str) -> ledger_pb2.GetBalanceResponse:
    account = Account(home_epoch=0, balances=past.balances)
    read = Read(state=account, stream_version=0, position=past.point.position)
    reply = ledger.balance_to_proto(user_id, read, cell)
    reply.as_of.CopyFrom(point_to_proto(past.point, cell))
    return reply


def account_to_proto(user_id: UUID, past: Past[Account], cell: str) -> ledger_pb2.GetAccountResponse:
    reply = ledger.account_to_proto(user_id, past.read, cell)
    reply.as_of.CopyFrom(point_to_proto(past.point, cell))
    return reply


def asset_to_proto(asset_id: UUID, past: Past[Asset], cell: str) -> auction_pb2.GetAssetResponse:
    reply = auctions.asset_to_proto(asset_id, past.read, cell)
    reply.as_of.CopyFrom(point_to_proto(past.point, cell))
    return reply


def auction_to_proto(auction_id: UUID, past: Past[Auction], cell: str) -> auction_pb2.GetAuctionResponse:
    reply = auctions.auction_read_to_proto(auction_id, past.read, cell)
    reply.as_of.CopyFrom(point_to_proto(past.point, cell))
    return reply


def saga_to_proto(saga_id: UUID, past: Past[Saga], events: Sequence[EventRow], cell: str) -> saga_pb2.GetSagaResponse:
    view = SagaView(saga_id, past.state, past.stream_version, None, stuck=False)
    reply = sagas.got_to_proto(view, past.point.position, events, cell)
    reply.as_of.CopyFrom(point_to_proto(past.point, cell))
    return reply


# --- all accounts ---------------------------------------------------------------------------------------------


class BalancesCursor(NamedTuple):
    """Where a list of balances continues: after an account and currency, as of a position."""

    position: int
    account_id: UUID
    currency: str


def place_to_proto(place: BalancesCursor) -> str:
    raw = place.position.to_bytes(_POSITION_BYTES) + place.account_id.bytes + place.currency.encode()
    return urlsafe_b64encode(raw).decode()


def parse_place(token: str) -> BalancesCursor | None:
    """None: the list begins."""
    if not token:
        return None
    try:
        raw = urlsafe_b64decode(token.encode())
        position = int.from_bytes(raw[:_POSITION_BYTES])
        account_id = uuid_from(raw[_POSITION_BYTES : _POSITION_BYTES + _UUID_BYTES])
        place = BalancesCursor(position, account_id, raw[_POSITION_BYTES + _UUID_BYTES :].decode("ascii"))
    except ValueError:
        raise invalid("page_token", "is not a token of this list", token) from None
    if place_to_proto(place) != token or len(place.currency) > CODE_LENGTH or position > POSITION_MAX:
        raise invalid("page_token", "is not a token of this list", token)
    return place


def first_place(position: int) -> BalancesCursor:
    return BalancesCursor(position, NIL, "")


def listed_to_proto(
    rows: Sequence[tuple[UUID, str, AccountEntryRow | None]], size: int, point: Point, cell: str
) -> audit_pb2.ListBalancesResponse:
    """`rows` may have one row more than the page: then there is a next page."""
    page = rows[:size]
    token = place_to_proto(BalancesCursor(point.position, *page[-1][:2])) if len(rows) > size else ""
    return audit_pb2.ListBalancesResponse(
        balances=[
            audit_pb2.UserBalance(
                user_id=str(account_id), balance=ledger.balance_of_to_proto(currency, balance_after(entry))
            )
            for account_id, currency, entry in page
            if entry is not None
        ],
        as_of=point_to_proto(point, cell),
        next_page_token=token,
    )


def trial_to_proto(trial: TrialBalance, cell: str) -> audit_pb2.GetTrialBalanceResponse:
    """Raises SumTooLarge: each account is within 64 bits, but the sum of all users need not be."""
    for (account, currency), amount_minor in trial.sums.items():
        if abs(amount_minor) > AMOUNT_MAX_MINOR:
            raise SumTooLarge(account=account, currency=currency, amount_minor=str(amount_minor))
    return audit_pb2.GetTrialBalanceResponse(
        accounts=[
            types_pb2.Posting(account=account, currency=currency, amount_minor=amount_minor)
            for (account, currency), amount_minor in trial.sums.items()
        ],
        as_of=point_to_proto(trial.point, cell),
    )


def verification_to_proto(verification: StreamVerification, cell: str) -> audit_pb2.CheckStreamResponse:
    return audit_pb2.CheckStreamResponse(
        kind=verification.kind.value,
        stream_version=verification.stream_version,
        events_read=verification.events_read,
        snapshots_compared=verification.snapshots_compared,
        present_compared=verification.present_compared,
        state_json=verification.state,
        as_of=point_to_proto(verification.point, cell),
        problems=verification.problems,
    )
