"""What a cell asks of the engine that drives its sagas."""

from typing import Protocol
from uuid import UUID

from cells.group import Commit


class SagaEngine(Protocol):
    """Drives every saga of the cell to its end. Its progress is in the cell's log, whichever engine runs it."""

    def follow(self, commit: Commit) -> None:
        """Hears of each commit of the cell, in order."""

    async def start(self) -> None:
        """Takes up every saga that has not ended. Called when this process begins to lead."""

    async def stop(self) -> None:
        """Lets go of all sagas where they are. Called when this process leads no more."""

    def attempts(self, saga_id: UUID) -> tuple[int, str]:
        """Failed attempts of the current leg since this process leads, and what the last one said."""
