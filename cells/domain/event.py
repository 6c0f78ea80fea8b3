"""What every event is: a frozen value that knows its stream's kind, its name, and how it moves money."""

import re
from typing import ClassVar
from uuid import UUID

from cells.domain.record import dataclass
from cells.domain.values import Kind, Posting, escrow_account

_WORD = re.compile(r"(?<!^)(?=[A-Z])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """How an event moves money: the change of each bucket of the stream's account, and of house accounts."""

    currency: str
    available: int = 0
    reserved: int = 0
    pending: int = 0
    house: tuple[tuple[str, int], ...] = ()

    def postings(self, account_id: UUID) -> tuple[Posting, ...]:
        """The double entry: one posting per account that changes, buckets of users/{account_id} first."""
        buckets = (("available", self.available), ("reserved", self.reserved), ("pending", self.pending))
        own = [(f"users/{account_id}/{bucket}", change) for bucket, change in buckets]
        return tuple(Posting(account, self.currency, change) for account, change in (*own, *self.house) if change)


class Event:
    """The base of the closed union. `event_type` is the class name in upper snake case."""

    __slots__ = ()
    kind: ClassVar[Kind]
    event_type: ClassVar[str]
    version: ClassVar[int] = 1

    def __init_subclass__(cls) -> None:
        cls.event_type = _WORD.sub("_", cls.__name__).upper()

    def movement(self) -> Movement | None:
        """What the event does to money; None when it moves none."""
        return None


def postings(event: Event, aggregate_id: UUID) -> tuple[Posting, ...]:
    """The double entry of an event in the stream `aggregate_id`; empty when it moves no money."""
    movement = event.movement()
    if movement is None:
        return ()
    if event.kind is not Kind.AUCTION:
        return movement.postings(aggregate_id)
    cleared = sum(change for _, change in movement.house)
    escrow = Posting(escrow_account(aggregate_id), movement.currency, -cleared)
    return (escrow, *(Posting(account, movement.currency, change) for account, change in movement.house))
