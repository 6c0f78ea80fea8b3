"""What a user has in a cell, and what of it goes along when the user moves."""

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
    # Where the auction is that it backs bids in: no other cell may pin, take or free it.
    auction_cell: str = ""
    ADDED: ClassVar[Mapping[str, Any]] = {"auction_cell": ""}

    def backs(self, bid_id: UUID, amount: Money) -> bool:
        """Whether that bid is open here, with that amount in that currency."""
        return (self.currency, self.bids_minor.get(bid_id)) == amount


class MoveStage(StrEnum):
    """How far a user's move out of this cell has come."""

    # The history is being copied, and the user is served as ever.
    COPYING = "COPYING"
    # The same, but the user begins nothing that other cells would have to answer.
    ANNOUNCED = "ANNOUNCED"
    # On the way: whatever the user is asked for has to wait a moment.
    DEPARTED = "DEPARTED"
    # At home elsewhere, for good.
    LEFT = "LEFT"


class Move(Struct, frozen=True, kw_only=True):
    """The move of a user out of this cell. What the user takes along is kept until it is known to have arrived."""

    saga_id: UUID
    from_cell: str
    to_cell: str
    # Of the new home.
    epoch: int
    stage: MoveStage = MoveStage.ANNOUNCED
    balances: dict[str, Balance] = field(default_factory=dict)
    holds: dict[UUID, Hold] = field(default_factory=dict)


class EarlierHome(NamedTuple):
    """Where a user lived before, and how many events of the account's stream there are there."""

    cell: str
    epoch: int
    events: int


class MoveCommand(NamedTuple):
    """The command that a move was begun by: sent again at a later home, it gets its first answer there."""

    principal: str
    command_id: UUID
    fingerprint: bytes


class CarriedReference(NamedTuple):
    """An external reference that was used up at an earlier home: no deposit counts twice for a move in between.

    `kind`: values.carried_kind.
    """

    kind: str
    reference: str
