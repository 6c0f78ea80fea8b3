"""The data that a moving user brings along, besides the account itself."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol
from uuid import UUID

from cells.domain.moves.refusals import BaggageGap
from cells.domain.record import Struct

if TYPE_CHECKING:
    from cells.store.outcomes import OutcomePlace
    from cells.store.ports import EventRow, OutcomeRow


class MovedEvent(NamedTuple):
    """An event of a user's account in an earlier home, as in the log of that cell."""

    cell: str
    row: "EventRow"


class MovedPlace(NamedTuple):
    """The position of a copied event among those of one user."""

    cell: str
    position: int


class HistoryCopy(NamedTuple):
    """The copy of a user's history in one earlier home: its first events, by count."""

    events: int
    # The last link of the chain over them (marks.py).
    chain: bytes
    # False: a process of an older version has delivered some of the counted events, without their marks.
    marked: bool = True


class UserBundle(Struct, frozen=True, kw_only=True):
    """A part of it: history, and outcomes of commands."""

    saga_id: UUID
    user_id: UUID
    events: Sequence[MovedEvent] = ()
    outcomes: "Sequence[OutcomeRow]" = ()
    # The move is called off: its delivered data is dropped.
    called_off: bool = False


def require_no_gap(user_id: UUID, held: Mapping[str, int], events: Sequence[MovedEvent]) -> None:
    """Raises BaggageGap if events would follow missing ones: `held` is the number of events of each cell here."""
    known = dict(held)
    for cell, row in events:
        if row.stream_version > known.get(cell, 0) + 1:
            raise BaggageGap(user_id=str(user_id), cell=cell, brought=row.stream_version, held=known.get(cell, 0))
        known[cell] = max(known.get(cell, 0), row.stream_version)


class HistoryCopies(Protocol):
    """The part of a cell's store for moves. Every method may raise StoreUnavailable."""

    async def moved_events(self, user_id: UUID, *, after: MovedPlace | None = None, limit: int) -> list[MovedEvent]:
        """The copied events of the user's account in earlier homes, by cell and position."""

    async def moved_stream(self, user_id: UUID, cell: str, *, after_version: int, limit: int) -> list[MovedEvent]:
        """The events of one earlier home, in order."""

    async def held(self, user_id: UUID) -> dict[str, int]:
        """Cell -> the number of the account stream's first events that are here: a copy has no gaps."""

    async def copies(self, user_id: UUID) -> dict[str, HistoryCopy]:
        """The same, with the content that an arrival records."""

    async def stream(self, user_id: UUID, *, after_version: int, limit: int) -> "list[EventRow]":
        """Events of the account's stream in this cell's own log, in order."""

    async def outcomes_of(
        self, user_id: UUID, *, after: "OutcomePlace | None", limit: int, since: datetime | None = None
    ) -> "list[OutcomeRow]":
        """Outcomes of the user's commands that no event of the account's stream names, by command id and sender.

        `since`: only of commands decided then or later.
        """

    async def stage(self, user_id: UUID, events: Sequence[MovedEvent], outcomes: "Sequence[OutcomeRow]") -> None:
        """Stores delivered data; existing rows stay unchanged.

        The events are staged until an ACCOUNT_ARRIVED of the user counts them. The legs and references that they mark
        are found from now on: they were taken, or used up, whether or not the user arrives.

        Raises BaggageGap, FieldInvalid.
        """

    async def expect(self, user_id: UUID) -> None:
        """Keeps the user's staged data for now: the arrival is about to be decided."""

    async def settle(self, user_id: UUID) -> None:
        """The user has arrived, and no data is staged any more."""

    async def give_up(self, user_id: UUID) -> None:
        """The user's staged data is stale from now on."""

    async def stale(self, *, idle_s: float, limit: int) -> list[UUID]:
        """Users with staged data for whom nothing was delivered for that long."""

    async def drop_staged(self, user_id: UUID, *, idle_s: float, at_most: int) -> bool:
        """Deletes up to that many staged events of a stale user, from the end of each stream; then the outcomes.

        False: there are none left, or the move continues.
        """


class Contacts(Protocol):
    """Contacts of people, which move with them. Both methods may be called repeatedly."""

    async def fetch(self, user_id: UUID, from_cell: str, saga_id: UUID) -> None:
        """Fetches the contact from the cell that the user leaves. Raises Refused."""

    async def forget(self, user_id: UUID) -> None:
        """Erases the contact here, because the user is at home elsewhere. Raises Refused."""
