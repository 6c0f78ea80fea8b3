"""The operator's view of the cell's sagas, and the requests to their engine. Changes to a saga are commands."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from cells.cell import Cell
from cells.domain.evolve import evolve
from cells.domain.record import replace
from cells.domain.refusals import NotLeading
from cells.domain.sagas.saga import Saga
from cells.domain.sagas.saga_refusals import SagaHasEnded, SagaIsPaused
from cells.domain.values import Kind, Ref
from cells.encoding import codec
from cells.sagas.engine import SagaEngine, Step
from cells.sagas.executions import SagaExecution
from cells.store.failures import map_store_errors
from cells.store.ports import EventFilter, EventRow, SagaFilter, SagaPlace

if TYPE_CHECKING:
    from cells.requests import CaughtUp, Progress

# No saga has this many events of its own; only pauses can exceed it.
HISTORY_MAX = 1_000
# How often attempts are polled: they are not events.
POLL_S = 0.5


class SagaView(NamedTuple):
    """A saga, and its execution in this process: `run` is None if this process does not drive it."""

    saga_id: UUID
    saga: Saga
    stream_version: int
    run: SagaExecution | None
    stuck: bool


class SagaNews(NamedTuple):
    """An event and the saga's current state. `event` is None after a failed attempt, which is not an event."""

    event: EventRow | None
    view: SagaView


@dataclass(frozen=True, slots=True)
class SagaAdmin:
    cell: Cell
    engine: SagaEngine

    async def get(self, saga_id: UUID) -> tuple[SagaView, int, list[EventRow]]:
        """The saga, a log position that it includes at least, and its history. Raises SagaNotFound."""
        read = await self.cell.saga(saga_id)
        of_saga = EventFilter(aggregate_id=saga_id)
        history = await map_store_errors(
            self.cell.store.events(from_position=1, limit=HISTORY_MAX, event_filter=of_saga)
        )
        return self._view(saga_id, read.state, read.stream_version), read.position, history

    async def listed(self, wanted: SagaFilter, *, stuck: bool, after: SagaPlace | None, limit: int) -> list[SagaView]:
        """Oldest first. `stuck`: only stuck sagas."""
        if stuck:
            now_s = self._now_s()
            ids = frozenset(saga_id for saga_id, run in self.engine.in_flight.items() if run.is_stuck(now_s))
            wanted = replace(wanted, ids=ids)
        rows = await map_store_errors(self.cell.store.list_sagas(wanted, after=after, limit=limit))
        for saga_id, entry in rows:
            self.cell.require_readable(Ref(Kind.SAGA, saga_id), entry)
        return [self._view(saga_id, state, version) for saga_id, (state, version) in rows if isinstance(state, Saga)]

    async def retry(self, saga_id: UUID) -> SagaView:
        """Retries the current leg at once.

        Raises:
            SagaNotFound, SagaHasEnded, SagaIsPaused: there is nothing to try.
            NotLeading: another process drives the sagas.
        """
        read = await self.cell.saga(saga_id)
        if read.state.ended:
            raise SagaHasEnded(saga_id=str(saga_id), state=read.state.state.value)
        if read.state.paused:
            raise SagaIsPaused(saga_id=str(saga_id))
        if not self.cell.leading:
            raise NotLeading(cell=self.cell.name)
        self.engine.retry_now(saga_id)
        return self._view(saga_id, read.state, read.stream_version)

    async def advance(self, saga_id: UUID) -> Step:
        """Executes the saga's current leg once.

        Raises:
            SagasDrivenHere: the cell's own engine drives the sagas.
            NotLeading: another process leads, or this process does not know the saga yet.
        """
        try:
            return await self.engine.advance(str(saga_id))
        except LookupError:
            raise NotLeading(cell=self.cell.name) from None

    async def watch(self, saga_id: UUID) -> AsyncGenerator[SagaNews, None]:
        """The saga's history, then its new events as they occur, until it ends. Raises SagaNotFound."""
        await self.cell.saga(saga_id)
        saga: Saga | None = None
        version, shown = 0, (0, "")
        async with aclosing(self._events(saga_id)) as events:
            async for row in events:
                if row is not None:
                    version = row.stream_version
                    saga = self._after(saga, row)
                if saga is None or (row is None and shown == self._attempts(saga_id)):
                    continue
                shown = self._attempts(saga_id)
                yield SagaNews(row, self._view(saga_id, saga, version))
                if saga.ended:
                    return

    async def _events(self, saga_id: UUID) -> AsyncGenerator[EventRow | None, None]:
        """The saga's events as they occur; None periodically while there are none."""
        async with aclosing(
            self.cell.subscribe(from_position=1, event_filter=EventFilter(aggregate_id=saga_id))
        ) as items:
            coming: asyncio.Task[EventRow | CaughtUp | Progress] | None = None
            try:
                while True:
                    coming = coming or asyncio.create_task(anext(items))
                    await asyncio.wait([coming], timeout=POLL_S)
                    if not coming.done():
                        yield None
                        continue
                    item, coming = coming.result(), None
                    yield item if isinstance(item, EventRow) else None
            finally:
                if coming is not None:
                    coming.cancel()
                    with suppress(asyncio.CancelledError):
                        await coming

    @staticmethod
    def _after(saga: Saga | None, row: EventRow) -> Saga | None:
        state = evolve(saga, codec.event_of(row), row.event_id)
        return state if isinstance(state, Saga) else None

    def _attempts(self, saga_id: UUID) -> tuple[int, str]:
        """Failed attempts of the current leg since this process leads, and the error of the last one."""
        run = self.engine.in_flight.get(saga_id)
        return (run.attempts, run.last_error) if run is not None else (0, "")

    def _view(self, saga_id: UUID, saga: Saga, stream_version: int) -> SagaView:
        run = self.engine.in_flight.get(saga_id)
        return SagaView(saga_id, saga, stream_version, run, run is not None and run.is_stuck(self._now_s()))

    def _now_s(self) -> float:
        return self.cell.time.clock.monotonic_s()
