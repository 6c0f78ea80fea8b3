"""What a cell asks of the engine that drives its sagas."""

from collections.abc import Mapping
from typing import Protocol
from uuid import UUID

from cells.group import Commit
from cells.sagas.runs import Run


class Step(Protocol):
    """What came of a leg: the saga has ended, or is to be taken up again after a pause."""

    @property
    def ended(self) -> bool: ...
    @property
    def pause_s(self) -> float: ...


class SagaEngine(Protocol):
    """Drives every saga of the cell to its end. Its progress is in the cell's log, whichever engine runs it."""

    def follow(self, commit: Commit) -> None:
        """Hears of each commit of the cell, in order."""

    async def start(self) -> None:
        """Takes up every saga that has not ended. Called when this process begins to lead."""

    async def stop(self) -> None:
        """Lets go of all sagas where they are. Called when this process leads no more."""

    @property
    def in_flight(self) -> Mapping[UUID, Run]:
        """The sagas that this process drives, by id; none where it does not lead."""

    @property
    def begun(self) -> Mapping[UUID, int]:
        """How many sagas are in flight, by the user who began them with a command."""

    @property
    def ended(self) -> Mapping[tuple[str, str], int]:
        """How many sagas have ended while this process drove them, by kind and last state."""

    def retry_now(self, saga_id: UUID) -> None:
        """Has the saga's current leg tried at once. Nothing happens to one that is being tried, or is not in flight."""

    async def advance(self, saga_id: str) -> Step:
        """Takes the saga's current leg once, where others say when.

        Raises:
            SagasDrivenHere: this engine says so itself.
            LookupError: the saga is not in flight here.
        """
