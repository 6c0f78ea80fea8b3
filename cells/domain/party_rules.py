"""A person whom a saga concerns turns out to have moved: its legs for them go to the new home, and money after them.

Each pair of cells has both sides of every movement between them. What was sent towards the old home and never taken
there is called back, and sent to the new one, in one commit.
"""

from collections.abc import Iterator
from uuid import UUID

from cells.domain.commands import MoveParty
from cells.domain.decision import Context, Draft
from cells.domain.events import (
    AnyEvent,
    EscrowFunded,
    EscrowPaidOut,
    EscrowRefilled,
    EscrowRefunded,
    RemoteTransferReturned,
    RemoteTransferSent,
    SagaPartyMoved,
    SettlementFacts,
    TransferFacts,
)
from cells.domain.saga import Saga, SagaState, moved_facts, party_of
from cells.domain.transfer_rules import transfer_clearing_id
from cells.domain.values import Direction, Kind, Ref, derived_id


def moved(command: MoveParty, saga: Saga) -> SagaPartyMoved | None:
    """None where that is known already, or concerns nobody in it; or was said to what is no longer asked.

    A cell says it of whom it was asked for: of the other party, who is at home elsewhere, it knows nothing.
    What a cell says no to has not happened there, and which money is on its way follows from what was asked.
    """
    if (saga.state is SagaState.COMPENSATING) != (command.direction is Direction.COMPENSATION):
        return None
    if party_of(saga, command.leg_id.leg) != command.user_id:
        return None
    event = SagaPartyMoved(user_id=command.user_id, cell=command.cell, epoch=command.epoch)
    return event if moved_facts(saga.facts, event) != saga.facts else None


def sent_after(saga: Saga, saga_id: UUID, command: MoveParty, context: Context, *, caused_by: UUID) -> Iterator[Draft]:
    """`saga` is as it was before. Every leg of which money was on its way to that person's old home."""
    facts, leg = saga.facts, saga.current.leg if saga.current is not None else ""
    events: tuple[AnyEvent, ...] = ()
    aggregate = Ref(Kind.SAGA, saga_id)
    if isinstance(facts, SettlementFacts):
        aggregate = Ref(Kind.AUCTION, facts.auction_id)
        if (leg, saga.state) == ("credit-in", SagaState.RUNNING):
            events = _paid_out_anew(facts, saga_id, saga.generation, command.cell)
        elif (leg, saga.state) == ("escrow-out", SagaState.COMPENSATING):
            events = _refunded_anew(facts, saga_id, saga.generation, command.cell)
    elif isinstance(facts, TransferFacts) and (leg, saga.state) == ("receive", SagaState.RUNNING):
        aggregate = Ref(Kind.ACCOUNT, facts.from_user_id)
        events = _sent_anew(facts, saga_id, saga.generation, command.cell)
    for event in events:
        yield Draft(
            event_id=context.new_event_id(),
            aggregate=aggregate,
            event=event,
            caused_by=caused_by,
            correlation_id=saga_id,
        )


def _paid_out_anew(facts: SettlementFacts, saga_id: UUID, generation: int, cell: str) -> tuple[AnyEvent, ...]:
    """The seller has moved: what was paid out towards the old home comes back, and goes to the new one."""
    clearing_id = derived_id(saga_id, f"clearing/credit/{generation}")
    money = {"currency": facts.currency, "amount_minor": facts.amount_minor, "clearing_id": clearing_id}
    return (
        EscrowRefilled(from_cell=facts.seller_cell, **money),  # type: ignore[arg-type]
        EscrowPaidOut(to_cell=cell, **money),  # type: ignore[arg-type]
    )


def _refunded_anew(facts: SettlementFacts, saga_id: UUID, generation: int, cell: str) -> tuple[AnyEvent, ...]:
    """The winner has moved after the money had left the old home: it is taken in here, and given back at the new one.

    Whether it had been here before (and was refunded) or never was: the old home's side is then met either way.
    """
    clearing_id = derived_id(saga_id, f"clearing/escrow/{generation}")
    money = {"currency": facts.currency, "amount_minor": facts.amount_minor, "clearing_id": clearing_id}
    return (
        EscrowFunded(from_cell=facts.winner_cell, **money),  # type: ignore[arg-type]
        EscrowRefunded(to_cell=cell, **money),  # type: ignore[arg-type]
    )


def _sent_anew(facts: TransferFacts, saga_id: UUID, generation: int, cell: str) -> tuple[AnyEvent, ...]:
    """The payee has moved."""
    clearing_id = transfer_clearing_id(saga_id, generation)
    return (
        RemoteTransferReturned(
            transfer_id=saga_id,
            from_cell=facts.to_cell,
            currency=facts.currency,
            amount_minor=facts.amount_minor,
            clearing_id=clearing_id,
        ),
        RemoteTransferSent(
            transfer_id=saga_id,
            to_user_id=facts.to_user_id,
            to_cell=cell,
            currency=facts.currency,
            amount_minor=facts.amount_minor,
            clearing_id=clearing_id,
        ),
    )
