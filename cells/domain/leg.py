"""The barrier: what this cell has done for each leg of a saga. An index of the events that legs left behind."""

from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from cells.domain.record import Struct


class LegResult(StrEnum):
    """What a leg's command came to, in the cell that was asked."""

    APPLIED = "APPLIED"
    UNDONE = "UNDONE"
    TOMBSTONED = "TOMBSTONED"


class LegMark(NamedTuple):
    """One thing done for a leg, and the event that did it."""

    result: LegResult
    event_id: UUID


class LegBarrier(Struct, frozen=True, kw_only=True):
    """What was done for one leg: at most one action and at most one compensation, ever."""

    action: LegMark | None = None
    compensation: LegMark | None = None


class Unreadable(NamedTuple):
    """In the place of a state: its row is there, and cannot be read."""

    problem: str


class UsedReference(Struct, frozen=True, kw_only=True):
    """An external reference that a deposit or withdrawal has used up."""

    position: int
