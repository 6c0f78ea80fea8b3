"""A user's money in a cell, and the part of it that moves along with the user."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

from cells.domain.event import Movement
from cells.domain.record import Struct, field
from cells.domain.values import Money


class Balance(Struct, frozen=True, kw_only=True):
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

    @property
    def total_minor(self) -> int:
        return self.available_minor + self.reserved_minor + self.pending_minor


NOTHING = Balance()


class Hold(Struct, frozen=True, kw_only=True):
    """Money set aside. A hold that backs bids in an auction is as large as the largest of its open bids."""

    currency: str
    amount_minor: int
    expire_time_ms: int | None = None
    # The settlement that owns the hold once it is pinned.
    saga_id: UUID | None = None
    # Open bid -> its amount: bids that lead or are unresolved.
    bids_minor: dict[UUID, int] = field(default_factory=dict)
    # The cell of the auction that it backs bids in: no other cell may pin, take or release it.
    auction_cell: str = ""
    ADDED: ClassVar[Mapping[str, Any]] = {"auction_cell": ""}

    def backs(self, bid_id: UUID, amount: Money) -> bool:
        """Whether that bid is open here, in that currency and with at least that amount: its limit may be more."""
        return self.currency == amount.currency and self.bids_minor.get(bid_id, 0) >= amount.amount_minor


class MoveStage(StrEnum):
    """The progress of a user's move out of this cell."""

    # The history is being copied, and the user is served as before.
    COPYING = "COPYING"
    # The same, but the user can begin nothing that other cells have to answer.
    ANNOUNCED = "ANNOUNCED"
    # In transit: every request for the user has to wait a moment.
    DEPARTED = "DEPARTED"
    # At home elsewhere, for good.
    LEFT = "LEFT"


class Move(Struct, frozen=True, kw_only=True):
    """The move of a user out of this cell. The user's balance and holds are kept until they have arrived."""

    saga_id: UUID
    from_cell: str
    to_cell: str
    # The new home's epoch.
    epoch: int
    stage: MoveStage = MoveStage.ANNOUNCED
    balances: dict[str, Balance] = field(default_factory=dict)
    holds: dict[UUID, Hold] = field(default_factory=dict)


class EarlierHome(NamedTuple):
    """A former home of a user, and the number of the account stream's events there."""

    cell: str
    epoch: int
    events: int


class MoveCommand(NamedTuple):
    """The command that began a move: sent again at a later home, it gets its first answer there."""

    principal: str
    command_id: UUID
    fingerprint: bytes


class CarriedReference(NamedTuple):
    """An external reference used up at an earlier home, so that no deposit counts twice because of a move in between.

    `kind`: values.carried_kind.
    """

    kind: str
    reference: str
