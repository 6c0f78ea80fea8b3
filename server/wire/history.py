"""Past moments on the wire, and the state at them."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from cellbook.v1 import auction_pb2, audit_pb2, ledger_pb2, saga_pb2, types_pb2
from cells.audit.check_stream import Checkup
from cells.audit.history import Balances, Past, balance_after
from cells.audit.moments import Moment, Point
from cells.audit.trial import TrialBalance
from cells.domain.account import Account
from cells.domain.asset import Asset
from cells.domain.auction import Auction
from cells.domain.audit_refusals import SumTooLarge
from cells.domain.hlc import Stamp
from cells.domain.saga import Saga
from cells.domain.values import AMOUNT_MAX_MINOR
from cells.ports import AccountEntryRow, EventRow
from cells.requests import Read
from cells.sagas.desk import SagaView
from cells.uuids import uuid_from
from server.shell.bounds import (
    LOGICAL,
    PAST_POSITION,
    STAMP,
    invalid,
    number_in,
)
from server.wire import auctions, ledger, sagas
from server.wire.common import CODE_LENGTH, NIL, stamp_out

POSITION_MAX = 2**63 - 1
_UUID_BYTES, _POSITION_BYTES = 16, 8


def moment_in(message: types_pb2.AsOf, field: str = "as_of") -> Moment:
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


def point_out(point: Point, cell: str) -> types_pb2.AsOfPoint:
    return types_pb2.AsOfPoint(
        cell=cell, position=point.position, hlc=stamp_out(point.stamp), recorded_at_us=point.recorded_at_us
    )


# --- the ordinary answers, at a past moment --------------------------------------------------------------------------


def balances_out(user_id: UUID, past: Balances, cell: str) -> ledger_pb2.GetBalanceResponse:
    account = Account(home_epoch=0, balances=past.balances)
    read = Read(state=account, stream_version=0, position=past.point.position)
    reply = ledger.balance_out(user_id, read, cell)
    reply.as_of.CopyFrom(point_out(past.point, cell))
    return reply


def account_out(user_id: UUID, past: Past[Account], cell: str) -> ledger_pb2.GetAccountResponse:
    reply = ledger.account_out(user_id, past.read, cell)
    reply.as_of.CopyFrom(point_out(past.point, cell))
    return reply


def asset_out(asset_id: UUID, past: Past[Asset], cell: str) -> auction_pb2.GetAssetResponse:
    reply = auctions.asset_out(asset_id, past.read, cell)
    reply.as_of.CopyFrom(point_out(past.point, cell))
    return reply


def auction_out(auction_id: UUID, past: Past[Auction], cell: str) -> auction_pb2.GetAuctionResponse:
    reply = auctions.auction_read_out(auction_id, past.read, cell)
    reply.as_of.CopyFrom(point_out(past.point, cell))
    return reply


def saga_out(saga_id: UUID, past: Past[Saga], events: Sequence[EventRow], cell: str) -> saga_pb2.GetSagaResponse:
    view = SagaView(saga_id, past.state, past.stream_version, None, stuck=False)
    reply = sagas.got_out(view, past.point.position, events, cell)
    reply.as_of.CopyFrom(point_out(past.point, cell))
    return reply


# --- all accounts ---------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """Where a list of balances continues: after an account and currency, as of a position."""

    position: int
    account_id: UUID
    currency: str


def place_out(place: Place) -> str:
    raw = place.position.to_bytes(_POSITION_BYTES) + place.account_id.bytes + place.currency.encode()
    return urlsafe_b64encode(raw).decode()


def place_in(token: str) -> Place | None:
    """None: the list begins."""
    if not token:
        return None
    try:
        raw = urlsafe_b64decode(token.encode())
        position = int.from_bytes(raw[:_POSITION_BYTES])
        account_id = uuid_from(raw[_POSITION_BYTES : _POSITION_BYTES + _UUID_BYTES])
        place = Place(position, account_id, raw[_POSITION_BYTES + _UUID_BYTES :].decode("ascii"))
    except ValueError:
        raise invalid("page_token", "is not a token of this list", token) from None
    if place_out(place) != token or len(place.currency) > CODE_LENGTH or position > POSITION_MAX:
        raise invalid("page_token", "is not a token of this list", token)
    return place


def first_place(position: int) -> Place:
    return Place(position, NIL, "")


def listed_out(
    rows: Sequence[tuple[UUID, str, AccountEntryRow | None]], size: int, point: Point, cell: str
) -> audit_pb2.ListBalancesResponse:
    """`rows` may have one row more than the page: then there is a next page."""
    page = rows[:size]
    token = place_out(Place(point.position, *page[-1][:2])) if len(rows) > size else ""
    return audit_pb2.ListBalancesResponse(
        balances=[
            audit_pb2.UserBalance(
                user_id=str(account_id), balance=ledger.balance_of_out(currency, balance_after(entry))
            )
            for account_id, currency, entry in page
            if entry is not None
        ],
        as_of=point_out(point, cell),
        next_page_token=token,
    )


def trial_out(trial: TrialBalance, cell: str) -> audit_pb2.GetTrialBalanceResponse:
    """Raises SumTooLarge: each account is within 64 bits, but the sum of all users need not be."""
    for (account, currency), amount_minor in trial.sums.items():
        if abs(amount_minor) > AMOUNT_MAX_MINOR:
            raise SumTooLarge(account=account, currency=currency, amount_minor=str(amount_minor))
    return audit_pb2.GetTrialBalanceResponse(
        accounts=[
            types_pb2.Posting(account=account, currency=currency, amount_minor=amount_minor)
            for (account, currency), amount_minor in trial.sums.items()
        ],
        as_of=point_out(trial.point, cell),
    )


def checkup_out(checkup: Checkup, cell: str) -> audit_pb2.CheckStreamResponse:
    return audit_pb2.CheckStreamResponse(
        kind=checkup.kind.value,
        stream_version=checkup.stream_version,
        events_read=checkup.events_read,
        snapshots_compared=checkup.snapshots_compared,
        present_compared=checkup.present_compared,
        state_json=checkup.state,
        as_of=point_out(checkup.point, cell),
        problems=checkup.problems,
    )
