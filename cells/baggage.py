"""What a user who moves to another cell brings along, beside the account itself."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol
from uuid import UUID

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


class Baggage(Struct, frozen=True, kw_only=True):
    """A part of it: history, and what became of commands."""

    saga_id: UUID
    user_id: UUID
    events: Sequence[MovedEvent] = ()
    outcomes: "Sequence[OutcomeRow]" = ()


class Luggage(Protocol):
    """The part of a cell's store that is about it. Every method may raise StoreUnavailable."""

    async def moved_events(
        self, user_id: UUID, *, event_types: Sequence[str] = (), after: MovedPlace | None = None, limit: int
    ) -> list[MovedEvent]:
        """What is here of the user's account in earlier homes, by cell and position; no types: all."""

    async def moved_counts(self, user_id: UUID) -> dict[str, int]:
        """Cell -> how many of those there are."""

    async def outcomes_of(self, user_id: UUID, *, after: "OutcomePlace | None", limit: int) -> "list[OutcomeRow]":
        """Outcomes of the user's commands that no event of the account's stream names, by command id and sender."""

    async def stow(self, user_id: UUID, events: Sequence[MovedEvent], outcomes: "Sequence[OutcomeRow]") -> None:
        """Takes in what a user brings along; what is here already stays as it is."""


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
