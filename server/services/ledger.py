"""LedgerService: accounts, and the outcomes of commands."""

from functools import partial
from uuid import UUID

from cellbook.v1 import ledger_pb2 as pb
from cellbook.v1.ledger_pb2_grpc import LedgerServiceServicer
from cells.audit.history.moments import Moment, Point
from cells.audit.history.questions import History, Past
from cells.cell import Cell
from cells.domain import commands
from cells.domain.account.account import Account
from cells.domain.account.balance import Hold
from cells.domain.due import without_expired
from cells.domain.record import fields_of, replace
from cells.requests import Outcome, Read
from cells.store.ports import Clock
from server.audit.signatures import NO_SIGNATURES, CallerSignatures
from server.services.audit_parts import Context, note_access
from server.services.commands import Executor, command, reader, then_or_now
from server.shell.calls.call import current_call
from server.shell.calls.statuses import to_status
from server.shell.fields.bounds import PRINCIPAL_OR_NONE, text_in
from server.shell.fields.parse import parse_uuid
from server.wire.convert import to_proto
from server.wire.fields import asset_name, auction_name
from server.wire.history import read_at
from server.wire.requests import asker_of

# Resources that a command created have an id inside the cell and a name on the wire.
_NAMED = {"asset_id": ("asset", asset_name), "auction_id": ("auction", auction_name)}
DEPOSIT = "/cellbook.v1.LedgerService/Deposit"

_read_deposit = reader(commands.Deposit, pb.DepositRequest)


class LedgerServicer(LedgerServiceServicer):
    def __init__(
        self, cell: Cell, clock: Clock, history: History, signatures: CallerSignatures = NO_SIGNATURES
    ) -> None:
        self._cell = cell
        self._history = history
        self.executor = Executor(cell, clock, signatures)

    OpenAccount = command(commands.OpenAccount, pb.OpenAccountRequest, pb.OpenAccountResponse)
    Deposit = command(commands.Deposit, pb.DepositRequest, pb.DepositResponse)
    Withdraw = command(commands.Withdraw, pb.WithdrawRequest, pb.WithdrawResponse)
    Transfer = command(commands.Transfer, pb.TransferRequest, pb.TransferResponse, user="from_user_id")
    Reserve = command(commands.Reserve, pb.ReserveRequest, pb.ReserveResponse)
    Capture = command(commands.Capture, pb.CaptureRequest, pb.CaptureResponse)
    Release = command(commands.Release, pb.ReleaseRequest, pb.ReleaseResponse)

    async def BatchDeposit(self, request: pb.BatchDepositRequest, _context: Context) -> pb.BatchDepositResponse:
        return await self.executor.answer_all(pb.BatchDepositResponse(), request.items, _read_deposit, DEPOSIT)

    async def GetBalance(self, request: pb.GetBalanceRequest, _context: Context) -> pb.GetBalanceResponse:
        user_id = parse_uuid(request.user_id, "user_id")
        note_access(self._cell.accesses, user_id)
        now = partial(self._account, user_id)
        read, point = await then_or_now(request, partial(self._past_balances, user_id), now)
        return balance_to_proto(user_id, read, point, self._cell.name)

    async def GetAccount(self, request: pb.GetAccountRequest, _context: Context) -> pb.GetAccountResponse:
        user_id = parse_uuid(request.user_id, "user_id")
        note_access(self._cell.accesses, user_id)
        then, now = partial(self._history.account, user_id), partial(self._account, user_id)
        read, point = await then_or_now(request, then, now)
        return account_to_proto(user_id, read, point, self._cell.name)

    async def _past_balances(self, user_id: UUID, moment: Moment) -> Past[Account]:
        past = await self._history.balances(user_id, moment)
        return Past(state=Account(home_epoch=0, balances=past.balances), stream_version=0, point=past.point)

    async def _account(self, user_id: UUID) -> Read[Account]:
        """The account as its owner can spend from it now: an expired hold holds nothing."""
        read = await self._cell.account(user_id)
        return replace(read, state=without_expired(read.state, self._cell.time.steady_ms()))

    async def GetCommand(self, request: pb.GetCommandRequest, _context: Context) -> pb.GetCommandResponse:
        command_id = parse_uuid(request.command_id, "command_id")
        # Empty if the request names no sender.
        sender = text_in(request.principal, "principal", PRINCIPAL_OR_NONE)
        asker = asker_of(current_call().principal)
        return command_to_proto(await self._cell.outcomes.status(command_id, asker, principal=sender))


# --- on the wire -----------------------------------------------------------------------------------------------------


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
