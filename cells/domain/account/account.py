"""A user's money in this cell: three buckets per currency, and the holds that make up the reserved one."""

from collections.abc import Mapping
from typing import Any, ClassVar, assert_never, get_args
from uuid import UUID

from cells.domain import events
from cells.domain.account.balance import NOTHING, Balance, EarlierHome, Hold, Move, MoveStage
from cells.domain.moves.events import (
    AccountArrived,
    AccountDeparted,
    AccountFlowsResumed,
    AccountFlowsStopped,
    AccountLeft,
    AccountMoveAnnounced,
    AccountMoveCalledOff,
    AccountReturned,
)
from cells.domain.record import Struct, field, replace

__all__ = ["Account", "Balance", "Hold", "evolve_account"]


class Account(Struct, frozen=True, kw_only=True):
    home_epoch: int
    balances: dict[str, Balance] = field(default_factory=dict)
    holds: dict[UUID, Hold] = field(default_factory=dict)
    # The move out of this cell, once it has been announced. LEFT: the user is at home elsewhere.
    move: Move | None = None
    # The most recent one comes last.
    earlier_homes: tuple[EarlierHome, ...] = ()
    # The time of the latest arrival, by the hybrid logical clock.
    home_since_ms: int = 0
    ADDED: ClassVar[Mapping[str, Any]] = {"home_since_ms": 0}

    def balance(self, currency: str) -> Balance:
        return self.balances.get(currency, NOTHING)

    @property
    def is_here(self) -> bool:
        """Whether the user is at home here, and not moving elsewhere."""
        return self.move is None or self.move.stage in {MoveStage.COPYING, MoveStage.ANNOUNCED}

    @property
    def has_left(self) -> bool:
        return self.move is not None and self.move.stage is MoveStage.LEFT


MoveEvents = (
    AccountMoveAnnounced
    | AccountMoveCalledOff
    | AccountFlowsStopped
    | AccountFlowsResumed
    | AccountDeparted
    | AccountReturned
    | AccountLeft
)
# Looked up by type: isinstance takes as long as all the rest for an event of none of them, and a replay asks for each.
MOVES, HOLDS = frozenset[type](get_args(MoveEvents)), frozenset[type](get_args(events.HoldEvents))


def evolve_account(state: Account | None, event: events.AccountEvents) -> Account:
    """The account after `event`. Buckets follow the event's movement, holds follow its kind."""
    kind = type(event)
    if kind is AccountArrived:
        return _arrived(state, event)  # type: ignore[arg-type]
    if state is None:
        if not isinstance(event, events.AccountOpened):
            message = f"{event.event_type} in an account that was never opened"
            raise TypeError(message)
        return Account(home_epoch=event.home_epoch)
    movement, balances, holds = event.movement(), state.balances, state.holds
    if movement is not None:
        currency = movement.currency
        balances = {**balances, currency: balances.get(currency, NOTHING).moved(movement)}
    if kind in HOLDS:
        holds = _evolve_holds(holds, event)  # type: ignore[arg-type]
    state = replace(state, balances=balances, holds=holds)
    return _evolve_move(state, event) if kind in MOVES else state  # type: ignore[arg-type]


def _arrived(state: Account | None, event: AccountArrived) -> Account:
    """A user who comes back has an empty account here."""
    return Account(
        home_epoch=event.epoch,
        balances={} if state is None else state.balances,
        holds=event.holds,
        earlier_homes=event.earlier_homes,
        home_since_ms=event.home_since_ms,
    )


def _evolve_move(state: Account, event: MoveEvents) -> Account:
    match event:
        case AccountMoveAnnounced():
            stage = MoveStage.COPYING if event.flows_go_on else MoveStage.ANNOUNCED
            move = Move(
                saga_id=event.saga_id,
                from_cell=event.from_cell,
                to_cell=event.to_cell,
                epoch=event.epoch,
                stage=stage,
            )
            return replace(state, move=move)
        case AccountFlowsStopped():
            return replace(state, move=replace(_under_way(state), stage=MoveStage.ANNOUNCED))
        case AccountFlowsResumed():
            return replace(state, move=replace(_under_way(state), stage=MoveStage.COPYING))
        case AccountMoveCalledOff():
            return replace(state, move=None)
        case AccountDeparted():
            kept = replace(_under_way(state), stage=MoveStage.DEPARTED, balances=state.balances, holds=state.holds)
            return replace(state, move=kept, holds={})
        case AccountReturned():
            move = replace(_under_way(state), stage=MoveStage.ANNOUNCED, balances={}, holds={})
            return replace(state, move=move, holds=event.holds)
        case AccountLeft():
            move = replace(_under_way(state), stage=MoveStage.LEFT, balances={}, holds={})
            return replace(state, move=move)
        case _:
            assert_never(event)


def _under_way(state: Account) -> Move:
    if state.move is None:
        raise TypeError("a step of a move that was never announced")
    return state.move


def _evolve_holds(holds: dict[UUID, Hold], event: events.HoldEvents) -> dict[UUID, Hold]:
    match event:
        case events.FundsReserved():
            return {**holds, event.hold_id: _grown(holds.get(event.hold_id), event)}
        case events.FundsReleased():
            hold = holds.get(event.hold_id)
            # A late release finds no hold and frees nothing.
            return _with(holds, event.hold_id, _shrunk(hold, event)) if hold else holds
        case events.HoldPinned():
            return {**holds, event.hold_id: replace(holds[event.hold_id], saga_id=event.saga_id)}
        case events.HoldCaptured() | events.EscrowSent():
            return _with(holds, event.hold_id, None)
        case events.EscrowReturned():
            return {**holds, event.hold_id: _restored(holds.get(event.hold_id), event)}
        case _:
            assert_never(event)


def _with(holds: dict[UUID, Hold], hold_id: UUID, hold: Hold | None) -> dict[UUID, Hold]:
    others = {other: kept for other, kept in holds.items() if other != hold_id}
    return others if hold is None else {**others, hold_id: hold}


def _grown(hold: Hold | None, event: events.FundsReserved) -> Hold:
    if hold is None:
        hold = Hold(currency=event.currency, amount_minor=0, expire_time_ms=event.expire_time_ms)
    bids = hold.bids_minor
    if event.bid_id is not None and event.bid_minor is not None:
        bids = {bid: amount for bid, amount in bids.items() if bid != event.replaces_bid_id}
        bids[event.bid_id] = event.bid_minor
    amount, cell = hold.amount_minor + event.amount_minor, event.auction_cell or hold.auction_cell
    return replace(hold, amount_minor=amount, bids_minor=bids, auction_cell=cell)


def _shrunk(hold: Hold, event: events.FundsReleased) -> Hold | None:
    bids = {bid: amount for bid, amount in hold.bids_minor.items() if bid != event.bid_id}
    left = hold.amount_minor - event.amount_minor
    # The rest of a pinned hold stays pinned: the bid that ended was another one of the winner's.
    return replace(hold, amount_minor=left, bids_minor=bids) if left else None


def _restored(hold: Hold | None, event: events.EscrowReturned) -> Hold:
    others = hold or Hold(currency=event.currency, amount_minor=0)
    return Hold(
        currency=event.currency,
        amount_minor=others.amount_minor + event.amount_minor,
        saga_id=event.saga_id,
        bids_minor={**others.bids_minor, event.bid_id: event.amount_minor},
        auction_cell=event.from_cell,
    )
