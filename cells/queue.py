"""The writer's bounded queue: what waits to be decided, in two lanes."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from cells.domain.refusals import QueueFull
from cells.requests import CommandRequest, Lane, Outcome

COMMANDS_MAX = 10_000
BYTES_MAX = 32 * 1024 * 1024
# A queue is for bursts. Where commands wait this long more come than can be done, and more waiting helps nobody: they
# would be decided when their callers have gone.
WAIT_MAX_S = 0.5
# So many are no queue, however long something holds them up: the next commit or two take them all.
COMMANDS_ALWAYS = 1_024


@dataclass(slots=True, kw_only=True, eq=False)
class Pending:
    """A request and those who wait for its answer: its sender, and whoever sent the same id meanwhile."""

    request: CommandRequest
    waiters: list[asyncio.Future[Outcome]]
    # On the cell's monotonic clock.
    queued_s: float

    @property
    def given_up(self) -> bool:
        return all(waiter.done() for waiter in self.waiters)

    def answer(self, answer: Outcome | Exception) -> None:
        for waiter in self.waiters:
            if waiter.done():
                continue
            if isinstance(answer, Exception):
                waiter.set_exception(answer)
            else:
                waiter.set_result(answer)


@dataclass(slots=True, kw_only=True)
class CommandQueue:
    """First in, first out within a lane. Timers and the progress of sagas go before clients, and are never refused:

    they are few, bounded by the sagas and timers that exist, and it is they who free what clients wait for.
    """

    commands_max: int = COMMANDS_MAX
    bytes_max: int = BYTES_MAX
    wait_max_s: float = WAIT_MAX_S
    commands_always: int = COMMANDS_ALWAYS
    _urgent: deque[Pending] = field(default_factory=deque)
    _clients: deque[Pending] = field(default_factory=deque)
    _client_bytes: int = 0
    _filled: asyncio.Event = field(default_factory=asyncio.Event)

    def __len__(self) -> int:
        return len(self._urgent) + len(self._clients)

    def put(self, pending: Pending) -> None:
        """Raises QueueFull at once when the clients' lane has reached a bound."""
        if pending.request.lane is Lane.URGENT:
            self._urgent.append(pending)
        else:
            self.check_room(1, pending.request.size_bytes, pending.queued_s)
            self._clients.append(pending)
            self._client_bytes += pending.request.size_bytes
        self._filled.set()

    def put_all(self, pendings: Sequence[Pending]) -> None:
        """Puts commands of clients one behind the other, all or none. Raises QueueFull where not all have room."""
        if not pendings:
            return
        size_bytes = sum(pending.request.size_bytes for pending in pendings)
        self.check_room(len(pendings), size_bytes, pendings[0].queued_s)
        self._clients.extend(pendings)
        self._client_bytes += size_bytes
        self._filled.set()

    def check_room(self, commands: int, size_bytes: int, now_s: float) -> None:
        """Raises QueueFull where the clients' lane has no room for that much more."""
        if (
            len(self._clients) + commands > self.commands_max
            or self._client_bytes + size_bytes > self.bytes_max
            or (len(self._clients) >= self.commands_always and now_s - self._clients[0].queued_s > self.wait_max_s)
        ):
            raise QueueFull(queued=len(self._clients), queued_bytes=self._client_bytes)

    def put_back(self, pendings: list[Pending]) -> None:
        """Returns what was taken but not done to the front, in its order, whatever the bounds."""
        for pending in reversed(pendings):
            if pending.request.lane is Lane.URGENT:
                self._urgent.appendleft(pending)
            else:
                self._clients.appendleft(pending)
                self._client_bytes += pending.request.size_bytes
        if len(self):
            self._filled.set()

    def take(self, limit: int) -> list[Pending]:
        """At most `limit`, urgent ones first."""
        taken = [self._urgent.popleft() for _ in range(min(limit, len(self._urgent)))]
        for _ in range(min(limit - len(taken), len(self._clients))):
            pending = self._clients.popleft()
            self._client_bytes -= pending.request.size_bytes
            taken.append(pending)
        if not len(self):
            self._filled.clear()
        return taken

    def wake(self) -> None:
        """Lets whoever waits for `filled` look around, though nothing may have come."""
        self._filled.set()

    async def filled(self) -> None:
        """Returns when something waits."""
        await self._filled.wait()
