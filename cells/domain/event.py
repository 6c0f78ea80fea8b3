"""The base of all events: a frozen value with the kind of its stream, its name, and its movement of money."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import UUID

from cells.domain.record import Struct
from cells.domain.values import AUCTION, Kind, Posting, Ref, escrow_account

_WORD = re.compile(r"(?<!^)(?=[A-Z])")


class Movement(Struct, frozen=True, kw_only=True):
    """The movement of an event: the change of each bucket of the stream's account, and of house accounts."""

    currency: str
    available: int = 0
    reserved: int = 0
    pending: int = 0
    house: tuple[tuple[str, int], ...] = ()

    def postings(self, aggregate: Ref) -> tuple[Posting, ...]:
        """The double entry of an event in the stream of `aggregate`: one posting per account that changes.

        The account's buckets come first, or the auction's escrow, which receives what the house accounts give.
        """
        return tuple([Posting(*line) for line in self.lines(aggregate.kind, aggregate.id)])

    def lines(self, kind: Kind, aggregate_id: UUID) -> list[tuple[str, str, int]]:
        """The same as plain tuples of account, currency and change, which are made in a third of the time."""
        currency = self.currency
        if kind is AUCTION:
            received = -sum([change for _, change in self.house])
            lines = [(escrow_account(aggregate_id), currency, received)] if received else []
        else:
            owner, lines = f"users/{aggregate_id!s}/", []
            if self.available:
                lines.append((f"{owner}available", currency, self.available))
            if self.reserved:
                lines.append((f"{owner}reserved", currency, self.reserved))
            if self.pending:
                lines.append((f"{owner}pending", currency, self.pending))
        lines += [(account, currency, change) for account, change in self.house if change]
        return lines


class Event(Struct, frozen=True, kw_only=True):
    """The base of the closed union. `event_type` is the class name in upper snake case."""

    kind: ClassVar[Kind]
    event_type: ClassVar[str]
    version: ClassVar[int] = 1
    # Fields added later, which are not written at these values: cells/encoding/schema.py.
    ADDED: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        cls.event_type = _WORD.sub("_", cls.__name__).upper()

    def movement(self) -> Movement | None:
        """The event's movement of money; None if it moves none."""
        return None


def postings(event: Event, aggregate_id: UUID) -> tuple[Posting, ...]:
    """The double entry of an event in the stream `aggregate_id`; empty if it moves no money."""
    movement = event.movement()
    return () if movement is None else movement.postings(Ref(event.kind, aggregate_id))
