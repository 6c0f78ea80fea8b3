"""Effects of the time that has passed, decided first if a command depends on them, whether or not a timer has fired.

An expired hold holds nothing any more, and an auction that has ended without a bid locks no asset. A command that is
refused because of one of these is decided again after the events that its timer would have produced.
"""

from typing import Any, NamedTuple
from uuid import UUID

from cells.domain import commands
from cells.domain.account.account import Account
from cells.domain.account.balance import Hold
from cells.domain.auction.auction import AuctionState
from cells.domain.auction.auction_rules import close_auction
from cells.domain.decision import Context, State, UncommittedEvent, View
from cells.domain.events import FundsReleased
from cells.domain.evolve import evolve
from cells.domain.refusals import AssetLocked, InsufficientFunds, Refused
from cells.domain.values import Kind, Ref

# The views' methods that show what the events below change.
KINDS = {"account": Kind.ACCOUNT, "asset": Kind.ASSET, "auction": Kind.AUCTION}


class Ahead:
    """A view in which some events have already happened."""

    def __init__(self, view: View, uncommitted: list[UncommittedEvent]) -> None:
        self._view = view
        self._states: dict[Ref, State | None] = {}
        for event in uncommitted:
            before = getattr(self, event.aggregate.kind.value)(event.aggregate.id)
            self._states[event.aggregate] = evolve(before, event.event, event.event_id)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - as the view has it
        read, kind = getattr(self._view, name), KINDS.get(name)
        return read if kind is None else lambda found_id: self._states.get(Ref(kind, found_id)) or read(found_id)


class Due(NamedTuple):
    """The due events, and the view after them."""

    uncommitted: list[UncommittedEvent]
    view: View


def due_first(command: commands.Command, refused: Refused, view: View, context: Context) -> Due | None:
    """The due events that would let the refused command pass; None: there are none."""
    uncommitted: list[UncommittedEvent] = []
    if isinstance(refused, InsufficientFunds):
        uncommitted = _expired_holds(command, refused, view, context)
    elif isinstance(refused, AssetLocked) and isinstance(command, commands.CreateAuction):
        uncommitted = _ended_auction(UUID(str(refused.facts["auction_id"])), view, context)
    return Due(uncommitted, Ahead(view, uncommitted)) if uncommitted else None


def without_expired(account: Account, now_ms: int) -> Account:
    """The account as it is once its timers have fired."""
    for hold_id, hold in _expired(account, now_ms):
        account = evolve(account, _released(hold_id, hold), hold_id)  # type: ignore[assignment]
    return account


def _expired_holds(
    command: commands.Command, refused: InsufficientFunds, view: View, context: Context
) -> list[UncommittedEvent]:
    """Enough of the payer's expired holds, the earliest first, to cover the needed amount; else none."""
    user_id = _payer(command)
    account = view.account(user_id) if user_id is not None else None
    if user_id is None or account is None:
        return []
    missing = int(refused.facts["needed_minor"]) - int(refused.facts["available_minor"])
    uncommitted = []
    for hold_id, hold in _expired(account, context.now_ms):
        if missing > 0 and hold.currency == refused.facts["currency"]:
            missing -= hold.amount_minor
            event = _released(hold_id, hold)
            uncommitted.append(
                UncommittedEvent(event_id=context.new_event_id(), aggregate=Ref(Kind.ACCOUNT, user_id), event=event)
            )
    return uncommitted if missing <= 0 else []


def _expired(account: Account, now_ms: int) -> list[tuple[UUID, Hold]]:
    """Expired holds, the earliest first."""
    due = [(hold.expire_time_ms, each, hold) for each, hold in account.holds.items() if hold.expire_time_ms is not None]
    return [(hold_id, hold) for expired_ms, hold_id, hold in sorted(due, key=_when) if expired_ms <= now_ms]


def _when(due: tuple[int, UUID, Hold]) -> tuple[int, UUID]:
    return due[:2]


def _released(hold_id: UUID, hold: Hold) -> FundsReleased:
    return FundsReleased(hold_id=hold_id, currency=hold.currency, amount_minor=hold.amount_minor)


def _payer(command: commands.Command) -> UUID | None:
    """The user whose money the command takes or sets aside."""
    match command:
        case commands.Withdraw() | commands.Reserve():
            return command.user_id
        case commands.Transfer():
            return command.from_user_id
        case commands.PlaceBid():
            return command.bidder_id
        case commands.ApplyLeg(action=commands.ReserveForBid(user_id=user_id) | commands.SendTransfer(user_id=user_id)):
            return user_id
        case _:
            return None


def _ended_auction(auction_id: UUID, view: View, context: Context) -> list[UncommittedEvent]:
    """Closes an auction that has ended without a bid; if there was one, the settlement has the asset."""
    auction = view.auction(auction_id)
    if auction is None or auction.state is not AuctionState.ACTIVE or auction.highest_bid is not None:
        return []
    return close_auction(commands.CloseAuction(auction_id=auction_id, by_command=False), view, context).uncommitted
