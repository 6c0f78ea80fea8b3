"""The port to the engine that drives a cell's sagas."""

from collections.abc import Mapping
from typing import Protocol
from uuid import UUID

from cells.sagas.executions import SagaExecution
from cells.writer.batch import Commit


class Step(Protocol):
    """The result of a leg: the saga has ended, or must be resumed after a pause."""

    @property
    def ended(self) -> bool: ...
    @property
    def pause_s(self) -> float: ...


class SagaEngine(Protocol):
    """Drives every saga of the cell to its end. Progress is in the cell's log, whichever engine runs it."""

    def follow(self, commit: Commit) -> None:
        """Receives each commit of the cell, in order."""

    async def start(self) -> None:
        """Resumes every saga that has not ended. Called when this process becomes the leader."""

    async def stop(self) -> None:
        """Stops driving all sagas. Called when this process stops leading."""

    @property
    def in_flight(self) -> Mapping[UUID, SagaExecution]:
        """The sagas that this process drives, by id; empty if it does not lead."""

    def retry_now(self, saga_id: UUID) -> None:
        """Retries the current leg at once. Does nothing if an attempt is running or the saga is not in flight."""

    async def advance(self, saga_id: str) -> Step:
        """Executes the saga's current leg once, for an engine that is scheduled from outside.

        Raises:
            SagasDrivenHere: this engine schedules its legs itself.
            LookupError: the saga is not in flight here.
        """
