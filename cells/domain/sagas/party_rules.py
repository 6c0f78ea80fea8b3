"""A person whom a saga concerns has moved: the legs for them go to the new home, and so does money in transit.

Each pair of cells has both sides of every movement between them. Money that was sent to the old home and never accepted
there is called back and sent to the new one, in one commit.
"""

from collections.abc import Iterator
from uuid import UUID

from cells.domain.commands import MoveParty
from cells.domain.decision import Context, UncommittedEvent
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
from cells.domain.sagas.saga import Saga, SagaState, moved_facts, party_of
from cells.domain.sagas.transfer_rules import transfer_clearing_id
from cells.domain.values import Direction, Kind, Ref, derived_id


def moved(command: MoveParty, saga: Saga) -> SagaPartyMoved | None:
    """None if the move is already known, or concerns nobody in the saga, or answers an outdated request.

    A cell answers only for the person it was asked about: it knows nothing of the other party. A leg that a cell
    refuses has not happened there, and the request tells which money is in transit.
    """
    if (saga.state is SagaState.COMPENSATING) != (command.direction is Direction.COMPENSATION):
        return None
    if party_of(saga, command.leg_id.leg) != command.user_id:
        return None
    event = SagaPartyMoved(user_id=command.user_id, cell=command.cell, epoch=command.epoch)
    return event if moved_facts(saga.facts, event) != saga.facts else None


def redirect_to_new_home(
    saga: Saga, saga_id: UUID, command: MoveParty, context: Context, *, caused_by: UUID
) -> Iterator[UncommittedEvent]:
    """Redirects every leg whose money was in transit to that person's old home. `saga` is the state before the move."""
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
        yield UncommittedEvent(
            event_id=context.new_event_id(),
            aggregate=aggregate,
            event=event,
            caused_by=caused_by,
            correlation_id=saga_id,
        )


def _paid_out_anew(facts: SettlementFacts, saga_id: UUID, generation: int, cell: str) -> tuple[AnyEvent, ...]:
    """The seller has moved: money paid out to the old home comes back, and goes to the new one."""
    clearing_id = derived_id(saga_id, f"clearing/credit/{generation}")
    money = {"currency": facts.currency, "amount_minor": facts.amount_minor, "clearing_id": clearing_id}
    return (
        EscrowRefilled(from_cell=facts.seller_cell, **money),  # type: ignore[arg-type]
        EscrowPaidOut(to_cell=cell, **money),  # type: ignore[arg-type]
    )


def _refunded_anew(facts: SettlementFacts, saga_id: UUID, generation: int, cell: str) -> tuple[AnyEvent, ...]:
    """The winner has moved after the money had left the old home: it is accepted here, and returned at the new one.

    This holds whether or not it had been here before (and was refunded): either way the old home's side is balanced.
    """
    clearing_id = derived_id(saga_id, f"clearing/escrow/{generation}")
    money = {"currency": facts.currency, "amount_minor": facts.amount_minor, "clearing_id": clearing_id}
    return (
        EscrowFunded(from_cell=facts.winner_cell, **money),  # type: ignore[arg-type]
        EscrowRefunded(to_cell=cell, **money),  # type: ignore[arg-type]
    )


def _sent_anew(facts: TransferFacts, saga_id: UUID, generation: int, cell: str) -> tuple[AnyEvent, ...]:
    """The payee has moved: the transfer goes to the new home."""
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
