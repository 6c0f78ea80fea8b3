"""Identifies the barrier of a leg: legs of different cells, or with different content, have different barriers.

A leg of the cell's own saga is identified by saga, leg and generation. A leg requested by another cell is identified by
that cell and its content as well: no cell can answer, undo or block the leg of another cell's saga, and an undo matches
what was done. Legs that were taken before this rule are found by their former name.
"""

from collections.abc import Iterator
from uuid import UUID

from cells.domain import commands, events
from cells.domain.account.account import Account
from cells.domain.decision import View
from cells.domain.moves.refusals import LegSentBeforeArrival
from cells.domain.sagas.leg import LegBarrier
from cells.domain.values import Direction, Kind, LegId, Money, Ref, derived_id

LegCommand = commands.ApplyLeg | commands.CompensateLeg


def barrier_id(command: LegCommand, cell: str) -> UUID:
    """The barrier of the leg in `cell`, the cell that takes it."""
    return command.leg_id.aggregate_id() if command.orchestrator == cell else carried_id(command)


def carried_id(command: LegCommand) -> UUID:
    """The id of the leg in every cell except its orchestrator's, and so in the history copy of the leg's user."""
    return foreign_barrier_id(command.leg_id, command.orchestrator, _said(command.action))


def direction_of(command: LegCommand) -> Direction:
    return Direction.ACTION if isinstance(command, commands.ApplyLeg) else Direction.COMPENSATION


def command_id(command: LegCommand, cell: str) -> UUID:
    """The id under which the leg is decided: it differs between cells, also from ids of this cell's own legs."""
    direction = direction_of(command)
    if command.orchestrator == cell:
        return command.leg_id.command_id(direction)
    return derived_id(barrier_id(command, cell), direction)


def foreign_barrier_id(leg_id: LegId, orchestrator: str, said: str) -> UUID:
    return derived_id(leg_id.saga_id, f"{orchestrator}/{leg_id.leg}/{leg_id.generation}/{said}")


def barrier_of(command: LegCommand, view: View, cell: str) -> LegBarrier:
    """The results for the leg, here or for its user at an earlier home."""
    barrier, leg_id = view.leg(barrier_id(command, cell)), command.leg_id
    if command.orchestrator == cell:
        return _joined(barrier, view.leg(carried_id(command))) if has_moved(command, view) else barrier
    if view.saga(leg_id.saga_id) is not None:
        return barrier
    return _joined(barrier, view.leg(leg_id.aggregate_id()))


def _joined(first: LegBarrier, second: LegBarrier) -> LegBarrier:
    return LegBarrier(action=first.action or second.action, compensation=first.compensation or second.compensation)


def has_moved(command: LegCommand, view: View) -> bool:
    """Whether the leg's user has had another home before."""
    account = _account(command, view)
    return account is not None and bool(account.earlier_homes)


def require_sent_since_arrival(command: commands.ApplyLeg, view: View) -> None:
    """Refuses a call that was sent before the leg's user arrived here: meanwhile another home may have undone the leg.

    The tombstone there has not moved with the user. By the hybrid logical clock, which every call carries, it is older
    than the arrival, and the call that it blocks is older still.

    Raises LegSentBeforeArrival: if the leg is still wanted, it is sent again, with a later time.
    """
    account, sent_ms = _account(command, view), command.sent_ms
    since_ms = account.home_since_ms if account is not None else 0
    if since_ms and sent_ms is not None and sent_ms <= since_ms:
        raise LegSentBeforeArrival(leg=command.leg_id.leg, sent_ms=sent_ms, arrived_ms=since_ms)


def _account(command: LegCommand, view: View) -> Account | None:
    user_id = getattr(command.action, "user_id", None)
    return view.account(user_id) if user_id is not None else None


def barrier_needs(command: LegCommand, cell: str) -> Iterator[Ref]:
    yield Ref(Kind.LEG, barrier_id(command, cell))
    if command.orchestrator != cell:
        yield Ref(Kind.LEG, command.leg_id.aggregate_id())
        yield Ref(Kind.SAGA, command.leg_id.saga_id)


# The content of an action that must be the same when the leg is requested again, or undone; of others the user alone.
_BID, _SALE = ("user_id", "auction_id", "bid_id"), ("user_id", "auction_id", "amount")
CONTENT: dict[type[commands.LegAction], tuple[str, ...]] = {
    commands.PinHold: _BID,
    commands.ReleaseBid: _BID,
    commands.SendToEscrow: (*_BID, "amount"),
    commands.CreditPending: _SALE,
    commands.SettlePending: _SALE,
    commands.ReceiveTransfer: ("user_id", "from_user_id", "amount"),
    commands.NotifyParty: ("user_id", "auction", "notice"),
    commands.SubmitBid: ("auction_id", "bid_id"),
}
# The same content in the events that those actions lead to, after the user.
_HOLD, _AMOUNT = ("hold_id", "bid_id"), ("currency", "amount_minor")
EVENT_CONTENT: dict[type[events.AnyEvent], tuple[str, ...]] = {
    events.HoldPinned: _HOLD,
    events.FundsReleased: _HOLD,
    events.EscrowSent: (*_HOLD, *_AMOUNT),
    events.EscrowReturned: (*_HOLD, *_AMOUNT),
    events.PendingCredited: ("auction_id", *_AMOUNT),
    events.PendingReversed: ("auction_id", *_AMOUNT),
    events.PendingSettled: ("auction_id", *_AMOUNT),
    events.RemoteTransferReceived: ("from_user_id", *_AMOUNT),
    events.PartyNotified: ("auction", "notice"),
}


def _said(action: commands.LegAction) -> str:
    content = (getattr(action, name, "") for name in CONTENT.get(type(action), ("user_id",)))
    return "/".join(
        f"{part.currency}/{part.amount_minor}" if isinstance(part, Money) else str(part) for part in content
    )


def said_by(event: events.AnyEvent, user_id: UUID) -> str:
    """As `_said` of the action that led to the event. Raises TypeError: no leg of such events is carried along."""
    content = EVENT_CONTENT.get(type(event))
    if content is None:
        raise TypeError(f"no leg is known by {event.event_type}")
    return "/".join([str(user_id), *(str(getattr(event, name)) for name in content)])
