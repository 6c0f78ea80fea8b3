"""The barrier: this cell's results for each leg of a saga. It is an index of the events that legs produced."""

from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from cells.domain.record import Struct
from cells.domain.results import Result


class LegResult(StrEnum):
    """The result of a leg's command in the cell that executed it."""

    APPLIED = "APPLIED"
    UNDONE = "UNDONE"
    TOMBSTONED = "TOMBSTONED"


class LegMark(Result, frozen=True):
    """One result for a leg, and the event that caused it."""

    result: LegResult
    event_id: UUID


class LegBarrier(Struct, frozen=True, kw_only=True):
    """The results of one leg: at most one action and at most one compensation, ever."""

    action: LegMark | None = None
    compensation: LegMark | None = None


class Unreadable(NamedTuple):
    """Takes the place of a state whose row exists, but cannot be read."""

    problem: str


class UsedReference(Struct, frozen=True, kw_only=True):
    """An external reference that a deposit or withdrawal has used up."""

    position: int
