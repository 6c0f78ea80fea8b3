"""LedgerService."""

from typing import Any
from uuid import UUID

import grpc.aio

from cellbook.v1 import ledger_pb2 as pb
from cellbook.v1.ledger_pb2_grpc import LedgerServiceServicer
from cells.audit.history.questions import History
from cells.cell import Cell
from cells.domain.account.account import Account
from cells.domain.due import without_expired
from cells.domain.record import replace
from cells.requests import Read
from cells.store.ports import Clock
from server.audit.signatures import NO_SIGNATURES, CallerSignatures
from server.services.accesses import note_access
from server.services.audit_parts import map_store_errors
from server.services.executor import Executor
from server.shell.calls.call import current_call
from server.wire import history as of_then
from server.wire import ledger as wire
from server.wire.common import asker_of, parse_uuid

DEPOSIT = "/cellbook.v1.LedgerService/Deposit"

Context = grpc.aio.ServicerContext[Any, Any]


class LedgerServicer(LedgerServiceServicer):
    def __init__(
        self, cell: Cell, clock: Clock, history: History, signatures: CallerSignatures = NO_SIGNATURES
    ) -> None:
        self._cell = cell
        self._history = history
        executor = Executor(cell, clock, signatures)
        self._execute, self._execute_all = executor.execute, executor.execute_all

    async def OpenAccount(self, request: pb.OpenAccountRequest, _context: Context) -> pb.OpenAccountResponse:
        command = wire.parse_open_account(request)
        outcome = await self._execute(request, command, command.user_id)
        return wire.opened_to_proto(outcome)

    async def Deposit(self, request: pb.DepositRequest, _context: Context) -> pb.DepositResponse:
        command = wire.parse_deposit(request)
        outcome = await self._execute(request, command, command.user_id)
        return wire.deposited_to_proto(outcome)

    async def BatchDeposit(self, request: pb.BatchDepositRequest, _context: Context) -> pb.BatchDepositResponse:
        answers = await self._execute_all(request.items, wire.parse_deposit_item, DEPOSIT)
        return wire.all_deposited_to_proto(answers)

    async def Withdraw(self, request: pb.WithdrawRequest, _context: Context) -> pb.WithdrawResponse:
        command = wire.parse_withdraw(request)
        outcome = await self._execute(request, command, command.user_id)
        return wire.withdrawn_to_proto(outcome)

    async def Transfer(self, request: pb.TransferRequest, _context: Context) -> pb.TransferResponse:
        command = wire.parse_transfer(request)
        outcome = await self._execute(request, command, command.from_user_id)
        return wire.transferred_to_proto(outcome)

    async def Reserve(self, request: pb.ReserveRequest, _context: Context) -> pb.ReserveResponse:
        command = wire.parse_reserve(request)
        outcome = await self._execute(request, command, command.user_id)
        return wire.reserved_to_proto(outcome)

    async def Capture(self, request: pb.CaptureRequest, _context: Context) -> pb.CaptureResponse:
        command = wire.parse_capture(request)
        outcome = await self._execute(request, command, command.user_id)
        return wire.captured_to_proto(outcome)

    async def Release(self, request: pb.ReleaseRequest, _context: Context) -> pb.ReleaseResponse:
        command = wire.parse_release(request)
        outcome = await self._execute(request, command, command.user_id)
        return wire.released_to_proto(outcome)

    async def GetBalance(self, request: pb.GetBalanceRequest, _context: Context) -> pb.GetBalanceResponse:
        user_id = parse_uuid(request.user_id, "user_id")
        note_access(self._cell.accesses, user_id)
        if request.HasField("as_of"):
            past = await map_store_errors(self._history.balances(user_id, of_then.parse_moment(request.as_of)))
            return of_then.balances_to_proto(user_id, past, self._cell.name)
        return wire.balance_to_proto(user_id, await self._account(user_id), self._cell.name)

    async def GetAccount(self, request: pb.GetAccountRequest, _context: Context) -> pb.GetAccountResponse:
        user_id = parse_uuid(request.user_id, "user_id")
        note_access(self._cell.accesses, user_id)
        if request.HasField("as_of"):
            past = await map_store_errors(self._history.account(user_id, of_then.parse_moment(request.as_of)))
            return of_then.account_to_proto(user_id, past, self._cell.name)
        return wire.account_to_proto(user_id, await self._account(user_id), self._cell.name)

    async def _account(self, user_id: UUID) -> Read[Account]:
        """The account as its owner can spend from it now: an expired hold holds nothing."""
        read = await self._cell.account(user_id)
        return replace(read, state=without_expired(read.state, self._cell.time.steady_ms()))

    async def GetCommand(self, request: pb.GetCommandRequest, _context: Context) -> pb.GetCommandResponse:
        command_id, sender = parse_uuid(request.command_id, "command_id"), wire.parse_sender_asked_for(request)
        asker = asker_of(current_call().principal)
        return wire.command_to_proto(await self._cell.commands.status(command_id, asker, principal=sender))
