"""A user's money in this cell: three buckets a currency, and the holds behind the reserved one."""

from dataclasses import field
from typing import assert_never
from uuid import UUID

from cells.domain.events import (
    AccountEvents,
    AccountOpened,
    Deposited,
    EscrowReturned,
    EscrowSent,
    FundsReleased,
    FundsReserved,
    HoldCaptured,
    HoldPinned,
    Movement,
    PartyNotified,
    PendingCredited,
    PendingReversed,
    PendingSettled,
    RemoteTransferReceived,
    RemoteTransferReturned,
    RemoteTransferSent,
    TransferReceived,
    TransferSent,
    Withdrawn,
)
from cells.domain.record import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """Minor units; none is ever below zero."""

    available_minor: int = 0
    reserved_minor: int = 0
    pending_minor: int = 0

    def moved(self, movement: Movement) -> "Balance":
        return Balance(
            available_minor=self.available_minor + movement.available,
            reserved_minor=self.reserved_minor + movement.reserved,
            pending_minor=self.pending_minor + movement.pending,
        )


NOTHING = Balance()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Money set aside. A hold that backs bids in an auction is as large as the largest of its open bids."""

    currency: str
    amount_minor: int
    expire_time_ms: int | None = None
    # The settlement that owns the hold once it is pinned.
    saga_id: UUID | None = None
    # Open bid -> its amount: bids that lead or are unresolved.
    bids_minor: dict[UUID, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    home_epoch: int
    balances: dict[str, Balance] = field(default_factory=dict)
    holds: dict[UUID, Hold] = field(default_factory=dict)

    def balance(self, currency: str) -> Balance:
        return self.balances.get(currency, NOTHING)


def evolve_account(state: Account | None, event: AccountEvents) -> Account:
    """The account after `event`. Buckets follow the event's movement, holds follow its kind."""
    if state is None:
        if not isinstance(event, AccountOpened):
            message = f"{event.event_type} in an account that was never opened"
            raise TypeError(message)
        return Account(home_epoch=event.home_epoch)
    movement = event.movement()
    balances = state.balances
    if movement is not None:
        balances = {**balances, movement.currency: state.balance(movement.currency).moved(movement)}
    return replace(state, balances=balances, holds=_evolve_holds(state.holds, event))


def _evolve_holds(holds: dict[UUID, Hold], event: AccountEvents) -> dict[UUID, Hold]:
    match event:
        case FundsReserved():
            return {**holds, event.hold_id: _grown(holds.get(event.hold_id), event)}
        case FundsReleased():
            hold = holds.get(event.hold_id)
            # A late release finds its hold gone: it frees nothing.
            return _with(holds, event.hold_id, _shrunk(hold, event)) if hold else holds
        case HoldPinned():
            return {**holds, event.hold_id: replace(holds[event.hold_id], saga_id=event.saga_id)}
        case HoldCaptured() | EscrowSent():
            return _with(holds, event.hold_id, None)
        case EscrowReturned():
            return {**holds, event.hold_id: _restored(holds.get(event.hold_id), event)}
        case (
            AccountOpened()
            | Deposited()
            | Withdrawn()
            | TransferSent()
            | TransferReceived()
            | RemoteTransferSent()
            | RemoteTransferReceived()
            | RemoteTransferReturned()
            | PendingCredited()
            | PendingReversed()
            | PendingSettled()
            | PartyNotified()
        ):
            return holds
        case _:
            assert_never(event)


def _with(holds: dict[UUID, Hold], hold_id: UUID, hold: Hold | None) -> dict[UUID, Hold]:
    others = {other: kept for other, kept in holds.items() if other != hold_id}
    return others if hold is None else {**others, hold_id: hold}


def _grown(hold: Hold | None, event: FundsReserved) -> Hold:
    if hold is None:
        hold = Hold(currency=event.currency, amount_minor=0, expire_time_ms=event.expire_time_ms)
    bids = hold.bids_minor
    if event.bid_id is not None and event.bid_minor is not None:
        bids = {bid: amount for bid, amount in bids.items() if bid != event.replaces_bid_id}
        bids[event.bid_id] = event.bid_minor
    return replace(hold, amount_minor=hold.amount_minor + event.amount_minor, bids_minor=bids)


def _shrunk(hold: Hold, event: FundsReleased) -> Hold | None:
    bids = {bid: amount for bid, amount in hold.bids_minor.items() if bid != event.bid_id}
    left = hold.amount_minor - event.amount_minor
    # What is left of a pinned hold stays pinned: it was another bid of the winner that came to nothing.
    return replace(hold, amount_minor=left, bids_minor=bids) if left else None


def _restored(hold: Hold | None, event: EscrowReturned) -> Hold:
    others = hold or Hold(currency=event.currency, amount_minor=0)
    return Hold(
        currency=event.currency,
        amount_minor=others.amount_minor + event.amount_minor,
        saga_id=event.saga_id,
        bids_minor={**others.bids_minor, event.bid_id: event.amount_minor},
    )
