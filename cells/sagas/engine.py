"""The base of the engines that drive a cell's sagas."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from cells.sagas.executions import SagaExecution
from cells.sagas.steps import Steps
from cells.store.ports import Store
from cells.writer.batch import Commit


class Step(Protocol):
    """The result of a leg: the saga has ended, or must be resumed after a pause."""

    @property
    def ended(self) -> bool: ...
    @property
    def pause_s(self) -> float: ...


@dataclass(slots=True, kw_only=True)
class SagaEngine(ABC):
    """Drives every saga of the cell to its end. Progress is in the cell's log, whichever engine runs it."""

    store: Store
    steps: Steps
    _running: bool = False

    def follow(self, commit: Commit) -> None:
        """Receives each commit of the cell, in order."""
        if self._running:
            for saga_id in self.steps.executions.follow(commit):
                self._changed(saga_id)

    async def start(self) -> None:
        """Resumes every saga that has not ended. Called when this process becomes the leader."""
        self._running = True
        async for saga_id in self.steps.executions.load(self.store):
            self._changed(saga_id)

    async def stop(self) -> None:
        """Stops driving all sagas. Called when this process stops leading."""
        self._running = False
        await self._stopped()
        self.steps.executions.clear()

    @property
    def in_flight(self) -> Mapping[UUID, SagaExecution]:
        """The sagas that this process drives, by id; empty if it does not lead."""
        return self.steps.executions.all

    @abstractmethod
    def _changed(self, saga_id: UUID) -> None:
        """The saga has begun or is taken up, is paused or resumed."""

    @abstractmethod
    async def _stopped(self) -> None:
        """Ends the work under way; the sagas are forgotten afterwards."""

    @abstractmethod
    def retry_now(self, saga_id: UUID) -> None:
        """Retries the current leg at once. Does nothing if an attempt is running or the saga is not in flight."""

    @abstractmethod
    async def advance(self, saga_id: str) -> Step:
        """Executes the saga's current leg once, for an engine that is scheduled from outside.

        Raises:
            SagasDrivenHere: this engine schedules its legs itself.
            LookupError: the saga is not in flight here.
        """
