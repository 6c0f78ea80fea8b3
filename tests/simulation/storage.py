"""A cell's database, which outlives its processes, and one process's connection to it."""

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from cells.domain.moves.refusals import BaggageGap
from cells.domain.refusals import FieldInvalid
from cells.store.ports import Batch, CommitUnknown, Head, StoreError, StoreUnavailable
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

    def __getattr__(self, method: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        """Every other method of the store."""
        return lambda *args, **how: self._ask(lambda: getattr(self._database, method)(*args, **how))

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
