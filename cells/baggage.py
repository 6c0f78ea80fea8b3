"""What a user who moves to another cell brings along, beside the account itself."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol
from uuid import UUID

from cells.domain.move_refusals import BaggageGap
from cells.domain.record import Struct

if TYPE_CHECKING:
    from cells.outcomes import OutcomePlace
    from cells.ports import EventRow, OutcomeRow


class MovedEvent(NamedTuple):
    """An event of a user's account in an earlier home, as it is in the log of that cell."""

    cell: str
    row: "EventRow"


class MovedPlace(NamedTuple):
    """Where a copied event stands among those of one user."""

    cell: str
    position: int


class HistoryCopy(NamedTuple):
    """What is here of a user's history in one earlier home: its first so many events."""

    events: int
    # The last link of the chain over them (marks.py).
    chain: bytes
    # False: a process of an older version has brought some of what an arrival is to count, without its marks.
    marked: bool = True


class Baggage(Struct, frozen=True, kw_only=True):
    """A part of it: history, and what became of commands."""

    saga_id: UUID
    user_id: UUID
    events: Sequence[MovedEvent] = ()
    outcomes: "Sequence[OutcomeRow]" = ()
    # The move is called off: what was brought by it goes.
    called_off: bool = False


def require_no_gap(user_id: UUID, held: Mapping[str, int], events: Sequence[MovedEvent]) -> None:
    """Raises BaggageGap where events come before those that they follow: `held` is how many of each cell are here."""
    known = dict(held)
    for cell, row in events:
        if row.stream_version > known.get(cell, 0) + 1:
            raise BaggageGap(user_id=str(user_id), cell=cell, brought=row.stream_version, held=known.get(cell, 0))
        known[cell] = max(known.get(cell, 0), row.stream_version)


class Luggage(Protocol):
    """The part of a cell's store that is about it. Every method may raise StoreUnavailable."""

    async def moved_events(self, user_id: UUID, *, after: MovedPlace | None = None, limit: int) -> list[MovedEvent]:
        """What is here of the user's account in earlier homes, by cell and position."""

    async def moved_stream(self, user_id: UUID, cell: str, *, after_version: int, limit: int) -> list[MovedEvent]:
        """Those of one earlier home, in order."""

    async def held(self, user_id: UUID) -> dict[str, int]:
        """Cell -> how many of the first events of the account's stream there are here: a copy has no gaps."""

    async def copies(self, user_id: UUID) -> dict[str, HistoryCopy]:
        """The same, with what an arrival says of it."""

    async def stream(self, user_id: UUID, *, after_version: int, limit: int) -> "list[EventRow]":
        """Events of the account's stream in this cell's own log, in order."""

    async def outcomes_of(
        self, user_id: UUID, *, after: "OutcomePlace | None", limit: int, since: datetime | None = None
    ) -> "list[OutcomeRow]":
        """Outcomes of the user's commands that no event of the account's stream names, by command id and sender.

        `since`: of commands that were decided then or later.
        """

    async def stow(self, user_id: UUID, events: Sequence[MovedEvent], outcomes: "Sequence[OutcomeRow]") -> None:
        """Takes in what a user brings along; what is here already stays as it is.

        Until an ACCOUNT_ARRIVED of the user's counts them, the events are staged. The legs and references that they
        mark are found from now on: they were taken, and used up, whether or not the user arrives.

        Raises BaggageGap, FieldInvalid.
        """

    async def expect(self, user_id: UUID) -> None:
        """Keeps what is staged of the user for now: the arrival is about to be decided."""

    async def settle(self, user_id: UUID) -> None:
        """The user has arrived, and nothing is staged any more."""

    async def give_up(self, user_id: UUID) -> None:
        """What is staged of the user is stale from now on."""

    async def stale(self, *, idle_s: float, limit: int) -> list[UUID]:
        """Users of whom something is staged, and nothing was brought for so long."""

    async def drop_staged(self, user_id: UUID, *, idle_s: float, at_most: int) -> bool:
        """Deletes that many staged events of a user who is stale, from the end of each stream; then the outcomes.

        False: there are none left, or the move goes on.
        """


class Contacts(Protocol):
    """What is known of people, which goes along with those who move. Both may be asked again."""

    async def fetch(self, user_id: UUID, from_cell: str, saga_id: UUID) -> None:
        """Brings it here from the cell that the user leaves. Raises Refused."""

    async def forget(self, user_id: UUID) -> None:
        """The user is at home elsewhere: here nothing is to be left of it. Raises Refused."""


class NoContacts:
    """Where nothing is known of people."""

    async def fetch(self, user_id: UUID, from_cell: str, saga_id: UUID) -> None:
        """There is nothing."""

    async def forget(self, user_id: UUID) -> None:
        """There is nothing."""
