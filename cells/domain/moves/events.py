"""The events in the account of a user who moves to another cell: in the old home, and in the new one."""

from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import UUID

from cells.domain.account.balance import CarriedReference, EarlierHome, Hold
from cells.domain.event import Event, Movement
from cells.domain.record import field
from cells.domain.values import Kind, clearing_account


class AccountMoveEvent(Event, frozen=True, kw_only=True):
    kind = Kind.ACCOUNT


class BalanceMoved(AccountMoveEvent, frozen=True, kw_only=True):
    """The contents of all buckets in one currency, from or to another cell."""

    saga_id: UUID
    currency: str
    available_minor: int
    reserved_minor: int
    pending_minor: int
    clearing_id: UUID

    def with_cell(self, cell: str, sign: int) -> Movement:
        """`sign`: 1 if the money comes in from the cell, -1 if it goes out to it."""
        total = self.available_minor + self.reserved_minor + self.pending_minor
        return Movement(
            currency=self.currency,
            available=sign * self.available_minor,
            reserved=sign * self.reserved_minor,
            pending=sign * self.pending_minor,
            house=((clearing_account(cell), -sign * total),),
        )


class AccountMoveAnnounced(AccountMoveEvent, frozen=True, kw_only=True):
    """In the old home, which is `from_cell`. `epoch` is that of the new home.

    `flows_go_on`: the history is copied first, and the user can begin flows into other cells until AccountFlowsStopped.
    """

    ADDED: ClassVar[Mapping[str, Any]] = {"flows_go_on": False}
    saga_id: UUID
    from_cell: str
    to_cell: str
    epoch: int
    flows_go_on: bool = False


class AccountMoveCalledOff(AccountMoveEvent, frozen=True, kw_only=True):
    """Undoes AccountMoveAnnounced: the user stays."""

    saga_id: UUID


class AccountFlowsStopped(AccountMoveEvent, frozen=True, kw_only=True):
    """The history is copied except its end: the user can begin no more flows into other cells, and departs soon."""

    saga_id: UUID
    to_cell: str


class AccountFlowsResumed(AccountMoveEvent, frozen=True, kw_only=True):
    """Undoes AccountFlowsStopped."""

    saga_id: UUID


class AccountDeparted(AccountMoveEvent, frozen=True, kw_only=True):
    """The fence. It comes with a BalanceDeparted for each currency; the holds move along."""

    saga_id: UUID
    to_cell: str


class BalanceDeparted(BalanceMoved, frozen=True, kw_only=True):
    to_cell: str

    def movement(self) -> Movement:
        return self.with_cell(self.to_cell, -1)


class AccountReturned(AccountMoveEvent, frozen=True, kw_only=True):
    """Undoes AccountDeparted: the user has not arrived, and never will by this move."""

    saga_id: UUID
    holds: dict[UUID, Hold]


class BalanceReturned(BalanceMoved, frozen=True, kw_only=True):
    """Undoes BalanceDeparted."""

    from_cell: str

    def movement(self) -> Movement:
        return self.with_cell(self.from_cell, 1)


class AccountLeft(AccountMoveEvent, frozen=True, kw_only=True):
    """The new home has the account: from here on the old one redirects every caller."""

    saga_id: UUID
    to_cell: str
    epoch: int


class AccountArrived(AccountMoveEvent, frozen=True, kw_only=True):
    """The pivot of a move, in the new home: from this event on it is the user's home.

    It comes with a BalanceArrived for each currency. `earlier_homes` name the cells whose logs hold the earlier
    history, and the number of its events: moved_events here has a copy of each. `history` binds them: for each cell the
    last link, in hexadecimal, of a chain over the leaf hashes of the copied events (cells/moves/marks.py).
    Legs that other cells sent up to `home_since_ms`, by their hybrid logical clocks, are refused: they are sent again.
    """

    ADDED: ClassVar[Mapping[str, Any]] = {"history": {}, "home_since_ms": 0}
    saga_id: UUID
    from_cell: str
    epoch: int
    holds: dict[UUID, Hold]
    earlier_homes: tuple[EarlierHome, ...]
    history: dict[str, str] = field(default_factory=dict)
    home_since_ms: int = 0


class BalanceArrived(BalanceMoved, frozen=True, kw_only=True):
    from_cell: str

    def movement(self) -> Movement:
        return self.with_cell(self.from_cell, 1)


class ReferencesCarried(AccountMoveEvent, frozen=True, kw_only=True):
    """External references that the user's deposits and withdrawals have used up in earlier homes.

    Only in old logs: now the history copy itself is searched.
    """

    references: tuple[CarriedReference, ...]


class LegCarried(Event, frozen=True, kw_only=True):
    """A leg that an earlier home has taken for the user, and that may yet have to be undone here.

    Only in old logs: now the history copy itself is searched.
    """

    kind = Kind.LEG
    saga_id: UUID
    leg: str
    generation: int
    from_cell: str
    # The leg's effect, in the log of the cell that took it.
    effect_id: UUID


AccountMoveEvents = (
    AccountMoveAnnounced
    | AccountMoveCalledOff
    | AccountFlowsStopped
    | AccountFlowsResumed
    | AccountDeparted
    | BalanceDeparted
    | AccountReturned
    | BalanceReturned
    | AccountLeft
    | AccountArrived
    | BalanceArrived
    | ReferencesCarried
)
