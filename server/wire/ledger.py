"""LedgerService: accounts, and the outcomes of commands."""

from uuid import UUID

from cellbook.v1 import ledger_pb2 as pb
from cells.audit.history.moments import Point
from cells.domain.account.account import Account
from cells.domain.account.balance import Hold
from cells.domain.record import fields_of
from cells.requests import Outcome, Read
from server.shell.calls.statuses import to_status
from server.wire.convert import to_proto
from server.wire.fields import asset_name, auction_name
from server.wire.history import read_at

# Resources that a command created have an id inside the cell and a name on the wire.
_NAMED = {"asset_id": ("asset", asset_name), "auction_id": ("auction", auction_name)}


def balance_to_proto(user_id: UUID, read: Read[Account], point: Point | None, cell: str) -> pb.GetBalanceResponse:
    return to_proto(
        pb.GetBalanceResponse,
        read.state,
        user_id=user_id,
        balances=balances_to_proto(read.state),
        **read_at(read, point, cell),
    )


def account_to_proto(user_id: UUID, read: Read[Account], point: Point | None, cell: str) -> pb.GetAccountResponse:
    account = read.state
    return to_proto(
        pb.GetAccountResponse,
        account,
        user_id=user_id,
        balances=balances_to_proto(account),
        holds=[_hold_to_proto(hold_id, hold) for hold_id, hold in sorted(account.holds.items())],
        stream_version=read.stream_version,
        moving_to_cell=account.move.to_cell if account.move is not None else "",
        **read_at(read, point, cell),
    )


def _hold_to_proto(hold_id: UUID, hold: Hold) -> pb.Hold:
    # A hold that backs bids has the id of their auction.
    auction = auction_name(hold.auction_cell, hold_id) if hold.auction_cell else ""
    return to_proto(pb.Hold, hold, hold_id=hold_id, auction=auction, bid_ids=sorted(hold.bids_minor))


def balances_to_proto(account: Account) -> list[pb.Balance]:
    return [to_proto(pb.Balance, balance, currency=currency) for currency, balance in sorted(account.balances.items())]


def command_to_proto(status: Outcome) -> pb.GetCommandResponse:
    named = dict[str, str]()
    for key in fields_of(type(status.result)):
        wire_key, name = _NAMED.get(key, (key, lambda _, value: str(value)))
        named[wire_key] = name(status.cell, getattr(status.result, key))
    refused = to_status(status.refusal) if status.refusal is not None else None
    return to_proto(pb.GetCommandResponse, status, result=named, refusal=refused)
