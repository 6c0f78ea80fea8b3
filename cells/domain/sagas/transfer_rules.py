"""Transfers to users of other cells: the money leaves here, arrives there or comes back."""

from uuid import UUID

from cells.domain.account.ledger_rules import balance_result, require_available, require_room, require_room_to_return
from cells.domain.commands import ReceiveTransfer, SendTransfer, Transfer
from cells.domain.decision import Context, Decision, View, account_of, require_here, settled_account_of
from cells.domain.events import RemoteTransferReceived, RemoteTransferReturned, RemoteTransferSent, TransferFacts
from cells.domain.refusals import PayeeNotFound, SameAccount, TransferExpired
from cells.domain.sagas.saga_start import require_room_for_flow, started_with
from cells.domain.values import Kind, Money, Ref, derived_id


def transfer(command: Transfer, view: View, context: Context) -> Decision:
    """Takes the money out of the payer's account and starts the saga that brings it to the payee's cell."""
    if command.to_cell is None:
        raise ValueError("a transfer within the cell needs no saga")
    if command.from_user_id == command.to_user_id:
        raise SameAccount(user_id=str(command.from_user_id))
    account = settled_account_of(view, command.from_user_id)
    require_room_for_flow(command.from_user_id, view, context)
    # Derived from the payer's id: two payers in two cells may use the same command_id.
    saga_id = derived_id(command.from_user_id, f"transfer/{context.command}")
    facts = TransferFacts(
        from_user_id=command.from_user_id,
        from_cell=context.cell,
        to_user_id=command.to_user_id,
        to_cell=command.to_cell,
        currency=command.amount.currency,
        amount_minor=command.amount.amount_minor,
        valid_until_ms=context.now_ms + context.policy.transfer_valid_ms,
        command_id=context.command_id,
    )
    sent = send(_sending(facts, saga_id, generation=1), saga_id, view)
    uncommitted = started_with(
        facts,
        saga_id,
        context,
        deadline_ms=facts.valid_until_ms,
        leg="send",
        aggregate=Ref(Kind.ACCOUNT, command.from_user_id),
        effect=sent,
    )
    after = account.balance(sent.currency).moved(sent.movement())
    return Decision(uncommitted=uncommitted, result=balance_result(after, sent.currency), awaits_saga=saga_id)


def action(leg: str, facts: TransferFacts, saga_id: UUID, generation: int) -> SendTransfer | ReceiveTransfer:
    if leg == "send":
        return _sending(facts, saga_id, generation)
    return ReceiveTransfer(
        user_id=facts.to_user_id,
        from_user_id=facts.from_user_id,
        amount=Money(facts.currency, facts.amount_minor),
        from_cell=facts.from_cell,
        clearing_id=transfer_clearing_id(saga_id, generation),
        valid_until_ms=facts.valid_until_ms,
    )


def _sending(facts: TransferFacts, saga_id: UUID, generation: int) -> SendTransfer:
    return SendTransfer(
        user_id=facts.from_user_id,
        to_user_id=facts.to_user_id,
        amount=Money(facts.currency, facts.amount_minor),
        to_cell=facts.to_cell,
        clearing_id=transfer_clearing_id(saga_id, generation),
    )


def transfer_clearing_id(saga_id: UUID, generation: int) -> UUID:
    return derived_id(saga_id, f"clearing/transfer/{generation}")


def send(action: SendTransfer, saga_id: UUID, view: View) -> RemoteTransferSent:
    require_available(account_of(view, action.user_id), action.amount)
    return RemoteTransferSent(
        transfer_id=saga_id,
        to_user_id=action.to_user_id,
        to_cell=action.to_cell,
        currency=action.amount.currency,
        amount_minor=action.amount.amount_minor,
        clearing_id=action.clearing_id,
    )


def receive(action: ReceiveTransfer, saga_id: UUID, view: View, context: Context) -> RemoteTransferReceived:
    if context.now_ms > action.valid_until_ms:
        raise TransferExpired(valid_until_ms=action.valid_until_ms, now_ms=context.now_ms)
    account = view.account(action.user_id)
    if account is None:
        # Not UserNotFound, which the payer would read as concerning their own account.
        raise PayeeNotFound(user_id=str(action.user_id), cell=context.cell)
    require_here(account, action.user_id)
    require_room(account, action.amount)
    return RemoteTransferReceived(
        transfer_id=saga_id,
        from_user_id=action.from_user_id,
        from_cell=action.from_cell,
        currency=action.amount.currency,
        amount_minor=action.amount.amount_minor,
        clearing_id=action.clearing_id,
    )


def take_back(action: SendTransfer, saga_id: UUID, view: View) -> RemoteTransferReturned:
    """Returned money has reserved room: without it the money would wait between the cells."""
    require_room_to_return(account_of(view, action.user_id), action.amount)
    return RemoteTransferReturned(
        transfer_id=saga_id,
        from_cell=action.to_cell,
        currency=action.amount.currency,
        amount_minor=action.amount.amount_minor,
        clearing_id=action.clearing_id,
    )
