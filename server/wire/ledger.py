"""LedgerService: accounts, holds, and the outcomes of commands."""

from collections.abc import Sequence
from uuid import UUID

from cellbook.v1 import ledger_pb2
from cells.domain.account.account import Account, Balance, Hold
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
from server.shell.calls.statuses import to_status
from server.shell.fields.bounds import (
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
from server.wire.common import (
    asset_name,
    auction_name,
    id_to_proto,
    money_to_proto,
    parse_amount,
    parse_money,
    parse_uuid,
    receipt_to_proto,
    stamp_to_proto,
    token_to_proto,
)
from server.wire.moves import earlier_homes_to_proto

_STATES = {
    CommandState.ACCEPTED: ledger_pb2.COMMAND_STATE_ACCEPTED,
    CommandState.REFUSED: ledger_pb2.COMMAND_STATE_REFUSED,
    CommandState.IN_PROGRESS: ledger_pb2.COMMAND_STATE_IN_PROGRESS,
}
# Resources that a command created have an id inside the cell and a name on the wire.
_NAMED = {"asset_id": ("asset", asset_name), "auction_id": ("auction", auction_name)}


# --- commands from proto ----------------------------------------------------------------------------------------------


def parse_open_account(request: ledger_pb2.OpenAccountRequest) -> OpenAccount:
    epoch = number_in(request.home_epoch, "home_epoch", EPOCH)
    user_id = parse_uuid(request.user_id, "user_id")
    if is_derived(user_id):
        raise invalid("user_id", f"must be {NEW_USER}", request.user_id)
    return OpenAccount(user_id=user_id, home_epoch=epoch)


def parse_deposit(request: ledger_pb2.DepositRequest) -> Deposit:
    return Deposit(
        user_id=parse_uuid(request.user_id, "user_id"),
        amount=parse_money(request.amount),
        external_reference=_parse_reference(request.external_reference),
    )


def parse_deposit_item(item: ledger_pb2.DepositRequest) -> tuple[Deposit, UUID]:
    command = parse_deposit(item)
    return command, command.user_id


def parse_withdraw(request: ledger_pb2.WithdrawRequest) -> Withdraw:
    return Withdraw(
        user_id=parse_uuid(request.user_id, "user_id"),
        amount=parse_money(request.amount),
        external_reference=_parse_reference(request.external_reference),
    )


def parse_transfer(request: ledger_pb2.TransferRequest) -> Transfer:
    return Transfer(
        from_user_id=parse_uuid(request.from_user_id, "from_user_id"),
        to_user_id=parse_uuid(request.to_user_id, "to_user_id"),
        amount=parse_money(request.amount),
    )


def parse_reserve(request: ledger_pb2.ReserveRequest) -> Reserve:
    return Reserve(
        user_id=parse_uuid(request.user_id, "user_id"),
        amount=parse_money(request.amount),
        expire_time_ms=number_in(request.expire_time_ms, "expire_time_ms", AHEAD_OR_NEVER) or None,
    )


def parse_capture(request: ledger_pb2.CaptureRequest) -> Capture:
    partial = request.HasField("amount_minor")
    return Capture(
        user_id=parse_uuid(request.user_id, "user_id"),
        hold_id=parse_uuid(request.hold_id, "hold_id"),
        to_user_id=parse_uuid(request.to_user_id, "to_user_id"),
        amount_minor=parse_amount(request.amount_minor, "amount_minor") if partial else None,
    )


def parse_release(request: ledger_pb2.ReleaseRequest) -> Release:
    return Release(user_id=parse_uuid(request.user_id, "user_id"), hold_id=parse_uuid(request.hold_id, "hold_id"))


def _parse_reference(text: str) -> str:
    return text_in(text, "external_reference", REFERENCE)


# --- answers to proto -------------------------------------------------------------------------------------------------


def opened_to_proto(outcome: Outcome) -> ledger_pb2.OpenAccountResponse:
    return ledger_pb2.OpenAccountResponse(receipt=receipt_to_proto(outcome))


def deposited_to_proto(outcome: Outcome) -> ledger_pb2.DepositResponse:
    return ledger_pb2.DepositResponse(receipt=receipt_to_proto(outcome), balance=_balance_after(outcome))


def all_deposited_to_proto(answers: Sequence[Outcome | Refused]) -> ledger_pb2.BatchDepositResponse:
    return ledger_pb2.BatchDepositResponse(results=[_deposit_result_to_proto(answer) for answer in answers])


def _deposit_result_to_proto(answer: Outcome | Refused) -> ledger_pb2.DepositResult:
    if isinstance(answer, Refused):
        return ledger_pb2.DepositResult(refused=to_status(answer))
    return ledger_pb2.DepositResult(accepted=deposited_to_proto(answer))


def withdrawn_to_proto(outcome: Outcome) -> ledger_pb2.WithdrawResponse:
    return ledger_pb2.WithdrawResponse(receipt=receipt_to_proto(outcome), balance=_balance_after(outcome))


def transferred_to_proto(outcome: Outcome) -> ledger_pb2.TransferResponse:
    return ledger_pb2.TransferResponse(receipt=receipt_to_proto(outcome), balance=_balance_after(outcome))


def reserved_to_proto(outcome: Outcome) -> ledger_pb2.ReserveResponse:
    return ledger_pb2.ReserveResponse(
        receipt=receipt_to_proto(outcome),
        hold_id=outcome.result["hold_id"],
        balance=_balance_after(outcome),
    )


def captured_to_proto(outcome: Outcome) -> ledger_pb2.CaptureResponse:
    return ledger_pb2.CaptureResponse(
        receipt=receipt_to_proto(outcome),
        captured=money_to_proto(outcome.result["currency"], outcome.result["amount_minor"]),
        balance=_balance_after(outcome),
    )


def released_to_proto(outcome: Outcome) -> ledger_pb2.ReleaseResponse:
    return ledger_pb2.ReleaseResponse(
        receipt=receipt_to_proto(outcome),
        released=money_to_proto(outcome.result["currency"], outcome.result["amount_minor"]),
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


def balance_to_proto(user_id: UUID, read: Read[Account], cell: str) -> ledger_pb2.GetBalanceResponse:
    return ledger_pb2.GetBalanceResponse(
        user_id=str(user_id),
        balances=_balances_to_proto(read.state),
        token=token_to_proto(cell, read.position),
        earlier_homes=earlier_homes_to_proto(read.state.earlier_homes),
    )


def account_to_proto(user_id: UUID, read: Read[Account], cell: str) -> ledger_pb2.GetAccountResponse:
    return ledger_pb2.GetAccountResponse(
        user_id=str(user_id),
        balances=_balances_to_proto(read.state),
        holds=[_hold_to_proto(hold_id, hold) for hold_id, hold in sorted(read.state.holds.items())],
        home_epoch=read.state.home_epoch,
        stream_version=read.stream_version,
        token=token_to_proto(cell, read.position),
        earlier_homes=earlier_homes_to_proto(read.state.earlier_homes),
        moving_to_cell=read.state.move.to_cell if read.state.move is not None else "",
    )


def _balances_to_proto(account: Account) -> list[ledger_pb2.Balance]:
    return [balance_of_to_proto(currency, balance) for currency, balance in sorted(account.balances.items())]


def balance_of_to_proto(currency: str, balance: Balance) -> ledger_pb2.Balance:
    return ledger_pb2.Balance(
        currency=currency,
        available_minor=balance.available_minor,
        reserved_minor=balance.reserved_minor,
        pending_minor=balance.pending_minor,
    )


def _hold_to_proto(hold_id: UUID, hold: Hold) -> ledger_pb2.Hold:
    return ledger_pb2.Hold(
        hold_id=str(hold_id),
        amount=money_to_proto(hold.currency, hold.amount_minor),
        expire_time_ms=hold.expire_time_ms or 0,
        saga_id=id_to_proto(hold.saga_id),
    )


def parse_sender_asked_for(request: ledger_pb2.GetCommandRequest) -> str:
    """The sender of the requested command; empty if not given. Raises FieldInvalid."""
    return text_in(request.principal, "principal", PRINCIPAL_OR_NONE)


def command_to_proto(status: CommandStatus) -> ledger_pb2.GetCommandResponse:
    response = ledger_pb2.GetCommandResponse(
        command_id=str(status.command_id),
        state=_STATES[status.state],
        token=token_to_proto(status.cell, status.position),
        hlc=stamp_to_proto(status.hlc),
        result=_result_to_proto(status.result, status.cell),
        principal=status.principal,
    )
    if status.refusal is not None:
        response.refusal.CopyFrom(to_status(status.refusal))
    return response


def _result_to_proto(result: dict[str, str], cell: str) -> dict[str, str]:
    named = {}
    for key, value in result.items():
        if key in _NAMED:
            wire_key, name = _NAMED[key]
            named[wire_key] = name(cell, value)
        else:
            named[key] = value
    return named
