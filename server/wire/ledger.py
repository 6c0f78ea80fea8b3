"""LedgerService: accounts, holds, and the outcomes of commands."""

from collections.abc import Sequence
from uuid import UUID

from cellbook.v1 import ledger_pb2
from cells.domain.account import Account, Balance, Hold
from cells.domain.commands import (
    Capture,
    Deposit,
    OpenAccount,
    Release,
    Reserve,
    Transfer,
    Withdraw,
)
from cells.domain.refusals import Refused
from cells.requests import CommandState, CommandStatus, Outcome, Read
from server.shell.bounds import (
    AHEAD_OR_NEVER,
    EPOCH,
    NEW_USER,
    PRINCIPAL_OR_NONE,
    REFERENCE,
    invalid,
    is_derived,
    number_in,
    text_in,
)
from server.shell.statuses import to_status
from server.wire.common import (
    amount_in,
    asset_name,
    auction_name,
    id_out,
    money_in,
    money_out,
    receipt_out,
    stamp_out,
    token_out,
    uuid_in,
)
from server.wire.moves import earlier_homes_out

_STATES = {
    CommandState.ACCEPTED: ledger_pb2.COMMAND_STATE_ACCEPTED,
    CommandState.REFUSED: ledger_pb2.COMMAND_STATE_REFUSED,
    CommandState.IN_PROGRESS: ledger_pb2.COMMAND_STATE_IN_PROGRESS,
}
# Resources that a command created have an id inside the cell and a name on the wire.
_NAMED = {"asset_id": ("asset", asset_name), "auction_id": ("auction", auction_name)}


# --- commands from proto ----------------------------------------------------------------------------------------------


def open_account_in(request: ledger_pb2.OpenAccountRequest) -> OpenAccount:
    epoch = number_in(request.home_epoch, "home_epoch", EPOCH)
    user_id = uuid_in(request.user_id, "user_id")
    if is_derived(user_id):
        raise invalid("user_id", f"must be {NEW_USER}", request.user_id)
    return OpenAccount(user_id=user_id, home_epoch=epoch)


def deposit_in(request: ledger_pb2.DepositRequest) -> Deposit:
    return Deposit(
        user_id=uuid_in(request.user_id, "user_id"),
        amount=money_in(request.amount),
        external_reference=_reference_in(request.external_reference),
    )


def deposit_item_in(item: ledger_pb2.DepositRequest) -> tuple[Deposit, UUID]:
    command = deposit_in(item)
    return command, command.user_id


def withdraw_in(request: ledger_pb2.WithdrawRequest) -> Withdraw:
    return Withdraw(
        user_id=uuid_in(request.user_id, "user_id"),
        amount=money_in(request.amount),
        external_reference=_reference_in(request.external_reference),
    )


def transfer_in(request: ledger_pb2.TransferRequest) -> Transfer:
    return Transfer(
        from_user_id=uuid_in(request.from_user_id, "from_user_id"),
        to_user_id=uuid_in(request.to_user_id, "to_user_id"),
        amount=money_in(request.amount),
    )


def reserve_in(request: ledger_pb2.ReserveRequest) -> Reserve:
    return Reserve(
        user_id=uuid_in(request.user_id, "user_id"),
        amount=money_in(request.amount),
        expire_time_ms=number_in(request.expire_time_ms, "expire_time_ms", AHEAD_OR_NEVER) or None,
    )


def capture_in(request: ledger_pb2.CaptureRequest) -> Capture:
    partial = request.HasField("amount_minor")
    return Capture(
        user_id=uuid_in(request.user_id, "user_id"),
        hold_id=uuid_in(request.hold_id, "hold_id"),
        to_user_id=uuid_in(request.to_user_id, "to_user_id"),
        amount_minor=amount_in(request.amount_minor, "amount_minor") if partial else None,
    )


def release_in(request: ledger_pb2.ReleaseRequest) -> Release:
    return Release(user_id=uuid_in(request.user_id, "user_id"), hold_id=uuid_in(request.hold_id, "hold_id"))


def _reference_in(text: str) -> str:
    return text_in(text, "external_reference", REFERENCE)


# --- answers to proto -------------------------------------------------------------------------------------------------


def opened_out(outcome: Outcome) -> ledger_pb2.OpenAccountResponse:
    return ledger_pb2.OpenAccountResponse(receipt=receipt_out(outcome))


def deposited_out(outcome: Outcome) -> ledger_pb2.DepositResponse:
    return ledger_pb2.DepositResponse(receipt=receipt_out(outcome), balance=_balance_after(outcome))


def all_deposited_out(answers: Sequence[Outcome | Refused]) -> ledger_pb2.BatchDepositResponse:
    return ledger_pb2.BatchDepositResponse(results=[_deposit_result_out(answer) for answer in answers])


def _deposit_result_out(answer: Outcome | Refused) -> ledger_pb2.DepositResult:
    if isinstance(answer, Refused):
        return ledger_pb2.DepositResult(refused=to_status(answer))
    return ledger_pb2.DepositResult(accepted=deposited_out(answer))


def withdrawn_out(outcome: Outcome) -> ledger_pb2.WithdrawResponse:
    return ledger_pb2.WithdrawResponse(receipt=receipt_out(outcome), balance=_balance_after(outcome))


def transferred_out(outcome: Outcome) -> ledger_pb2.TransferResponse:
    return ledger_pb2.TransferResponse(receipt=receipt_out(outcome), balance=_balance_after(outcome))


def reserved_out(outcome: Outcome) -> ledger_pb2.ReserveResponse:
    return ledger_pb2.ReserveResponse(
        receipt=receipt_out(outcome),
        hold_id=outcome.result["hold_id"],
        balance=_balance_after(outcome),
    )


def captured_out(outcome: Outcome) -> ledger_pb2.CaptureResponse:
    return ledger_pb2.CaptureResponse(
        receipt=receipt_out(outcome),
        captured=money_out(outcome.result["currency"], outcome.result["amount_minor"]),
        balance=_balance_after(outcome),
    )


def released_out(outcome: Outcome) -> ledger_pb2.ReleaseResponse:
    return ledger_pb2.ReleaseResponse(
        receipt=receipt_out(outcome),
        released=money_out(outcome.result["currency"], outcome.result["amount_minor"]),
        balance=_balance_after(outcome),
    )


def _balance_after(outcome: Outcome) -> ledger_pb2.Balance:
    result = outcome.result
    return ledger_pb2.Balance(
        currency=result["currency"],
        available_minor=int(result["available_minor"]),
        reserved_minor=int(result["reserved_minor"]),
        pending_minor=int(result["pending_minor"]),
    )


def balance_out(user_id: UUID, read: Read[Account], cell: str) -> ledger_pb2.GetBalanceResponse:
    return ledger_pb2.GetBalanceResponse(
        user_id=str(user_id),
        balances=_balances_out(read.state),
        token=token_out(cell, read.position),
        earlier_homes=earlier_homes_out(read.state.earlier_homes),
    )


def account_out(user_id: UUID, read: Read[Account], cell: str) -> ledger_pb2.GetAccountResponse:
    return ledger_pb2.GetAccountResponse(
        user_id=str(user_id),
        balances=_balances_out(read.state),
        holds=[_hold_out(hold_id, hold) for hold_id, hold in sorted(read.state.holds.items())],
        home_epoch=read.state.home_epoch,
        stream_version=read.stream_version,
        token=token_out(cell, read.position),
        earlier_homes=earlier_homes_out(read.state.earlier_homes),
        moving_to_cell=read.state.move.to_cell if read.state.move is not None else "",
    )


def _balances_out(account: Account) -> list[ledger_pb2.Balance]:
    return [balance_of_out(currency, balance) for currency, balance in sorted(account.balances.items())]


def balance_of_out(currency: str, balance: Balance) -> ledger_pb2.Balance:
    return ledger_pb2.Balance(
        currency=currency,
        available_minor=balance.available_minor,
        reserved_minor=balance.reserved_minor,
        pending_minor=balance.pending_minor,
    )


def _hold_out(hold_id: UUID, hold: Hold) -> ledger_pb2.Hold:
    return ledger_pb2.Hold(
        hold_id=str(hold_id),
        amount=money_out(hold.currency, hold.amount_minor),
        expire_time_ms=hold.expire_time_ms or 0,
        saga_id=id_out(hold.saga_id),
    )


def sender_asked_for_in(request: ledger_pb2.GetCommandRequest) -> str:
    """The sender of the requested command; empty if not given. Raises FieldInvalid."""
    return text_in(request.principal, "principal", PRINCIPAL_OR_NONE)


def command_out(status: CommandStatus) -> ledger_pb2.GetCommandResponse:
    response = ledger_pb2.GetCommandResponse(
        command_id=str(status.command_id),
        state=_STATES[status.state],
        token=token_out(status.cell, status.position),
        hlc=stamp_out(status.hlc),
        result=_result_out(status.result, status.cell),
        principal=status.principal,
    )
    if status.refusal is not None:
        response.refusal.CopyFrom(to_status(status.refusal))
    return response


def _result_out(result: dict[str, str], cell: str) -> dict[str, str]:
    named = {}
    for key, value in result.items():
        if key in _NAMED:
            wire_key, name = _NAMED[key]
            named[wire_key] = name(cell, value)
        else:
            named[key] = value
    return named
