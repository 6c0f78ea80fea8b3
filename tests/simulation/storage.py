"""A cell's database, which outlives its processes, and one process's connection to it."""

from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from cells.domain.moves.refusals import BaggageGap
from cells.domain.refusals import FieldInvalid
from cells.domain.values import Kind, Ref
from cells.moves.user_bundle import HistoryCopy, MovedEvent, MovedPlace
from cells.store.outcomes import OutcomePlace
from cells.store.ports import (
    EVERYTHING,
    POSITION_MAX,
    Batch,
    CommitUnknown,
    EventFilter,
    EventRow,
    Head,
    OutcomeRow,
    SagaFilter,
    SagaPlace,
    StoreError,
    StoreUnavailable,
    Timer,
    Versioned,
)
from tests.simulation.books import Books, WatchedStore
from tests.simulation.ground import Broken

if TYPE_CHECKING:
    from tests.simulation.world import World

T = TypeVar("T")


class Database(WatchedStore):
    def __init__(self, cell: str, books: Books) -> None:
        super().__init__(cell, books)
        # Until then it is unreachable.
        self.away_until_s = 0.0


class Connection:
    """Implements cells/ports.Store. A request under way is executed even if its sender is dead."""

    def __init__(self, database: Database, world: "World", kill: Callable[[], None]) -> None:
        self._database = database
        self._world = world
        # Kills the process after a commit whose answer has not arrived yet.
        self._kill = kill

    async def head(self) -> Head:
        return await self._ask(self._database.head)

    async def claim(self, *, expected_epoch: int | None = None) -> Head:
        head = await self._ask(lambda: self._database.claim(expected_epoch=expected_epoch))
        if self._world.chance.random() < self._world.weather.store_unavailable:
            raise StoreUnavailable("the connection broke after the epoch was raised")
        return head

    async def append(self, batch: Batch) -> None:
        world, chance = self._world, self._world.chance
        if chance.random() >= world.weather.commit_unknown or not (batch.events or batch.outcomes):
            await self._ask(lambda: self._database.append(batch))
            if chance.random() < world.weather.killed / 10:
                self._kill()
            return
        # The connection breaks in COMMIT: it has happened, may still happen, or never will.
        if chance.random() < 0.7:
            world.after(
                chance.expovariate(2 / world.weather.store_s), self._answer, lambda: self._database.append(batch)
            )
        await world.nap(chance.expovariate(1 / world.weather.store_s))
        raise CommitUnknown("the connection broke")

    async def load(self, refs: Sequence[Ref]) -> dict[Ref, Versioned]:
        return await self._ask(lambda: self._database.load(refs))

    async def outcomes(self, command_ids: Sequence[UUID]) -> Sequence[OutcomeRow]:
        return await self._ask(lambda: self._database.outcomes(command_ids))

    async def events(
        self,
        *,
        from_position: int,
        until_position: int = POSITION_MAX,
        limit: int,
        event_filter: EventFilter = EVERYTHING,
    ) -> list[EventRow]:
        return await self._ask(
            lambda: self._database.events(
                from_position=from_position, until_position=until_position, limit=limit, event_filter=event_filter
            )
        )

    async def list_states(
        self, kind: Kind, *, states: Sequence[str], after: UUID | None, limit: int
    ) -> list[tuple[UUID, Versioned]]:
        return await self._ask(lambda: self._database.list_states(kind, states=states, after=after, limit=limit))

    async def list_sagas(
        self, wanted: SagaFilter, *, after: SagaPlace | None, limit: int
    ) -> list[tuple[UUID, Versioned]]:
        return await self._ask(lambda: self._database.list_sagas(wanted, after=after, limit=limit))

    async def timers(self) -> list[Timer]:
        return await self._ask(self._database.timers)

    async def moved_events(self, user_id: UUID, *, after: MovedPlace | None = None, limit: int) -> list[MovedEvent]:
        return await self._ask(lambda: self._database.moved_events(user_id, after=after, limit=limit))

    async def moved_stream(self, user_id: UUID, cell: str, *, after_version: int, limit: int) -> list[MovedEvent]:
        return await self._ask(
            lambda: self._database.moved_stream(user_id, cell, after_version=after_version, limit=limit)
        )

    async def held(self, user_id: UUID) -> dict[str, int]:
        return await self._ask(lambda: self._database.held(user_id))

    async def copies(self, user_id: UUID) -> dict[str, HistoryCopy]:
        return await self._ask(lambda: self._database.copies(user_id))

    async def stream(self, user_id: UUID, *, after_version: int, limit: int) -> list[EventRow]:
        return await self._ask(lambda: self._database.stream(user_id, after_version=after_version, limit=limit))

    async def outcomes_of(
        self, user_id: UUID, *, after: OutcomePlace | None, limit: int, since: datetime | None = None
    ) -> list[OutcomeRow]:
        return await self._ask(lambda: self._database.outcomes_of(user_id, after=after, limit=limit, since=since))

    async def expect(self, user_id: UUID) -> None:
        await self._ask(lambda: self._database.expect(user_id))

    async def settle(self, user_id: UUID) -> None:
        await self._ask(lambda: self._database.settle(user_id))

    async def give_up(self, user_id: UUID) -> None:
        await self._ask(lambda: self._database.give_up(user_id))

    async def stale(self, *, idle_s: float, limit: int) -> list[UUID]:
        return await self._ask(lambda: self._database.stale(idle_s=idle_s, limit=limit))

    async def drop_staged(self, user_id: UUID, *, idle_s: float, at_most: int) -> bool:
        return await self._ask(lambda: self._database.drop_staged(user_id, idle_s=idle_s, at_most=at_most))

    async def stage(self, user_id: UUID, events: Sequence[MovedEvent], outcomes: Sequence[OutcomeRow]) -> None:
        await self._ask(lambda: self._database.stage(user_id, events, outcomes))

    async def close(self) -> None:
        """Has nothing to close."""

    async def _ask(self, operation: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The request travels, is executed, and the answer travels back."""
        world, chance = self._world, self._world.chance
        reached: Any = world.loop.create_future()
        world.after(chance.expovariate(2 / world.weather.store_s), self._carry_out, operation, reached)
        answer = await reached
        if chance.random() < 0.5:
            await world.nap(chance.expovariate(2 / world.weather.store_s))
        if isinstance(answer, StoreError | BaggageGap | FieldInvalid):
            raise answer
        result: T = answer
        return result

    def _carry_out(self, operation: Callable[[], Coroutine[Any, Any, Any]], reached: Any) -> None:  # noqa: ANN401
        away = self._world.loop.time() < self._database.away_until_s
        if away or self._world.chance.random() < self._world.weather.store_unavailable:
            answer: object = StoreUnavailable("nobody answers")
        else:
            answer = self._answer(operation)
        if not reached.done():
            reached.set_result(answer)

    def _answer(self, operation: Callable[[], Coroutine[Any, Any, Any]]) -> object:
        """The database's immediate answer. A violated invariant ends the run."""
        try:
            operation().send(None)
        except StopIteration as done:
            return done.value
        except (StoreError, BaggageGap, FieldInvalid) as error:
            return error
        except Broken as broken:
            self._world.end(broken)
            return StoreUnavailable("the end")
        raise AssertionError("a database in memory waits for nothing")
