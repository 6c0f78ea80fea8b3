"""A transfer to a user of another cell: the money leaves here, arrives there or comes back."""

from cells.domain import events
from cells.domain.account.ledger_rules import balance_after, require_available, require_room, require_room_to_return
from cells.domain.commands import ReceiveTransfer, SendTransfer, Transfer
from cells.domain.decision import Context, Decision, View, account_of, require_here, settled_account_of
from cells.domain.refusals import PayeeNotFound, SameAccount, TransferExpired
from cells.domain.results import BalanceAfter
from cells.domain.sagas.definition import Effect, Flow, LegContext, LegSpec, SagaDefinition, SagaKind
from cells.domain.sagas.saga_events import TransferFacts
from cells.domain.sagas.saga_start import require_room_for_flow, started_with
from cells.domain.values import Direction, Kind, LegId, Ref, derived_id

PAYER = (Kind.ACCOUNT, "from_user_id")


def remote_transfer(command: Transfer, view: View, context: Context) -> Decision:
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
        **command.amount.fields,
        from_user_id=command.from_user_id,
        from_cell=context.cell,
        to_user_id=command.to_user_id,
        to_cell=command.to_cell,
        valid_until_ms=context.now_ms + context.policy.transfer_valid_ms,
        command_id=context.command_id,
    )
    first, leg_id = TRANSFER.versions[1][0], LegId(saga_id, "send", 1)
    sent = _send(first.action(Flow(facts, saga_id, 1)), LegContext(leg_id, view, context))  # type: ignore[arg-type]
    uncommitted = started_with(
        facts,
        saga_id,
        context,
        deadline_ms=facts.valid_until_ms,
        leg=first.leg,
        aggregate=Ref(Kind.ACCOUNT, command.from_user_id),
        effect=sent,
    )
    after = account.balance(sent.currency).moved(sent.movement())
    return Decision(uncommitted=uncommitted, result=balance_after(after, sent.currency), awaits_saga=saga_id)


def _send(action: SendTransfer, at: LegContext) -> events.RemoteTransferSent:
    require_available(account_of(at.view, action.user_id), action.amount)
    return events.RemoteTransferSent(
        **action.amount.fields,
        transfer_id=at.leg_id.saga_id,
        to_user_id=action.to_user_id,
        to_cell=action.to_cell,
        clearing_id=action.clearing_id,
    )


def _take_back(action: SendTransfer, at: LegContext) -> events.RemoteTransferReturned:
    """Returned money has reserved room: without it the money would wait between the cells."""
    require_room_to_return(account_of(at.view, action.user_id), action.amount)
    return events.RemoteTransferReturned(
        **action.amount.fields,
        transfer_id=at.leg_id.saga_id,
        from_cell=action.to_cell,
        clearing_id=action.clearing_id,
    )


def _receive(action: ReceiveTransfer, at: LegContext) -> events.RemoteTransferReceived:
    now_ms, account = at.context.now_ms, at.view.account(action.user_id)
    if now_ms > action.valid_until_ms:
        raise TransferExpired(valid_until_ms=action.valid_until_ms, now_ms=now_ms)
    if account is None:
        # Not UserNotFound, which the payer would read as concerning their own account.
        raise PayeeNotFound(user_id=str(action.user_id), cell=at.context.cell)
    require_here(account, action.user_id)
    require_room(account, action.amount)
    return events.RemoteTransferReceived(
        **action.amount.fields,
        transfer_id=at.leg_id.saga_id,
        from_user_id=action.from_user_id,
        from_cell=action.from_cell,
        clearing_id=action.clearing_id,
    )


def _answer(flow: Flow, view: View) -> BalanceAfter:
    facts: TransferFacts = flow.facts
    return balance_after(account_of(view, facts.from_user_id).balance(facts.currency), facts.currency)


def _sent_anew(flow: Flow, cell: str) -> tuple[Ref, tuple[events.AnyEvent, ...]]:
    """The payee has moved: the transfer goes to the new home."""
    facts: TransferFacts = flow.facts
    clearing_id = flow.clearing_id("transfer")
    returned = events.RemoteTransferReturned(
        **facts.amount.fields, transfer_id=flow.saga_id, from_cell=facts.to_cell, clearing_id=clearing_id
    )
    sent = events.RemoteTransferSent(
        **facts.amount.fields,
        transfer_id=flow.saga_id,
        to_user_id=facts.to_user_id,
        to_cell=cell,
        clearing_id=clearing_id,
    )
    return Ref(Kind.ACCOUNT, facts.from_user_id), (returned, sent)


SEND = Effect(action=SendTransfer, apply=_send, undo=_take_back)
RECEIVE = Effect(action=ReceiveTransfer, apply=_receive, foreign=True, claims="from_cell")

TRANSFER = SagaDefinition(
    kind=SagaKind.TRANSFER,
    title="transfer to a user of another cell",
    facts=TransferFacts,
    versions={
        1: (
            LegSpec(leg="send", at="from_cell", effect=SEND, given={"user_id": "from_user_id"}, clearing="transfer"),
            LegSpec(
                leg="receive",
                at="to_cell",
                effect=RECEIVE,
                given={"user_id": "to_user_id"},
                clearing="transfer",
                pivot=True,
            ),
        )
    },
    party="from_user_id",
    needs=(PAYER,),
    answer=_answer,
    expired=TransferExpired,
    redirects={("receive", Direction.ACTION): _sent_anew},
)
