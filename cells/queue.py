"""The writer's bounded queue: what waits to be decided, in two lanes."""

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from cells.domain.refusals import QueueFull
from cells.requests import CommandRequest, Lane, Outcome

COMMANDS_MAX = 10_000
BYTES_MAX = 32 * 1024 * 1024
# A queue is for bursts. Who would wait longer than this for its turn is turned away: more come than can be done, and
# more waiting helps nobody; at last all would be decided when their callers have gone.
WAIT_MAX_S = 0.5
# Never turned away for the wait while no more than this are before it: a batch or less.
COMMANDS_ALWAYS = 256
# The pace is that of the last few of these.
PACE_WINDOW_S = 0.2
PACE_WEIGHT = 0.3
# Older than this it tells nothing of now.
PACE_KEPT_S = 1.0


@dataclass(slots=True, kw_only=True, eq=False)
class Pending:
    """A request and those who wait for its answer: its sender, and whoever sent the same id meanwhile."""

    request: CommandRequest
    waiters: list[asyncio.Future[Outcome]]

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
class Pace:
    """How many commands a second a queue gives out while there are always more in it."""

    # While it is not known nobody is turned away for it.
    per_s: float = math.inf
    _since_s: float = 0.0
    _taken: int = 0
    _busy: bool = False

    def took(self, commands: int, now_s: float, *, more: bool) -> None:
        """`more`: some are left, so that until the next time the queue is not idle."""
        if self._busy:
            self._taken += commands
            self._measure(now_s)
        elif more:
            if now_s - self._since_s > PACE_KEPT_S:
                self.per_s = math.inf
            self._since_s, self._taken = now_s, 0
        self._busy = more

    def _measure(self, now_s: float) -> None:
        elapsed_s = now_s - self._since_s
        if elapsed_s < PACE_WINDOW_S:
            return
        per_s = self._taken / elapsed_s
        self.per_s = per_s if self.per_s == math.inf else self.per_s + PACE_WEIGHT * (per_s - self.per_s)
        self._since_s, self._taken = now_s, 0


@dataclass(slots=True, kw_only=True)
class CommandQueue:
    """First in, first out within a lane. Timers and the progress of sagas go before clients, and are never refused:

    they are few, bounded by the sagas and timers that exist, and it is they who free what clients wait for.
    """

    commands_max: int = COMMANDS_MAX
    bytes_max: int = BYTES_MAX
    wait_max_s: float = WAIT_MAX_S
    commands_always: int = COMMANDS_ALWAYS
    pace: Pace = field(default_factory=Pace)
    _urgent: deque[Pending] = field(default_factory=deque)
    _clients: deque[Pending] = field(default_factory=deque)
    _client_bytes: int = 0
    # How many the one who waits for `filled` waits for.
    _enough: float = 1
    _filled: asyncio.Event = field(default_factory=asyncio.Event)

    def __len__(self) -> int:
        return len(self._urgent) + len(self._clients)

    def put(self, pending: Pending) -> None:
        """Raises QueueFull at once when the clients' lane has reached a bound."""
        if pending.request.lane is Lane.URGENT:
            self._urgent.append(pending)
        else:
            self.check_room(1, pending.request.size_bytes)
            self._clients.append(pending)
            self._client_bytes += pending.request.size_bytes
        self._look()

    def put_all(self, pendings: Sequence[Pending]) -> None:
        """Puts commands of clients one behind the other, all or none. Raises QueueFull where not all have room."""
        if not pendings:
            return
        size_bytes = sum(pending.request.size_bytes for pending in pendings)
        self.check_room(len(pendings), size_bytes)
        self._clients.extend(pendings)
        self._client_bytes += size_bytes
        self._look()

    def check_room(self, commands: int, size_bytes: int) -> None:
        """Raises QueueFull where the clients' lane has no room for so much more, or would keep it waiting too long."""
        if (
            len(self._clients) + commands > self.commands_max
            or self._client_bytes + size_bytes > self.bytes_max
            or len(self._clients) > max(self.pace.per_s * self.wait_max_s, self.commands_always)
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
        self._look()

    def take(self, limit: int, now_s: float) -> list[Pending]:
        """At most `limit`, urgent ones first. `now_s` is the monotonic clock's: it tells how fast the queue moves."""
        taken = [self._urgent.popleft() for _ in range(min(limit, len(self._urgent)))]
        for _ in range(min(limit - len(taken), len(self._clients))):
            pending = self._clients.popleft()
            self._client_bytes -= pending.request.size_bytes
            taken.append(pending)
        self.pace.took(len(taken), now_s, more=bool(self._clients))
        return taken

    def holds(self, command_id: UUID) -> bool:
        return any(
            pending.request.command_id == command_id for lane in (self._urgent, self._clients) for pending in lane
        )

    def wake(self) -> None:
        """Lets whoever waits for `filled` look around, though nothing may have come."""
        self._filled.set()

    async def filled(self, enough: float) -> None:
        """Returns when so many wait, or when woken."""
        self._enough = enough
        if len(self) < enough:
            self._filled.clear()
            await self._filled.wait()

    def _look(self) -> None:
        if len(self) >= self._enough:
            self._filled.set()
