"""The writer's bounded queue of commands, urgent ones and clients', with a backlog per principal."""

import asyncio
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from cells.domain.refusals import QueueFull
from cells.requests import CommandRequest, Lane, Outcome

# Per principal, and in total while some have more than their share.
COMMANDS_MAX = 10_000
BYTES_MAX = 32 * 1024 * 1024
# This many times as much may wait in total, for principals who come late and have had nothing yet.
TOTAL_FACTOR = 2
# A queue is for bursts. Commands that would wait longer than this are rejected: more arrive than can be done, and
# longer queues do not help; in the end commands would be decided after their callers have gone.
WAIT_MAX_S = 0.5
# While at most this many are ahead, a command is never rejected for the wait: a batch or less.
COMMANDS_ALWAYS = 256
# The rate is that of the last few of these windows.
PACE_WINDOW_S = 0.2
PACE_WEIGHT = 0.3
# An older measurement says nothing about the present.
PACE_KEPT_S = 1.0


@dataclass(slots=True, kw_only=True, eq=False)
class Pending:
    """A request and those who wait for its answer: its sender, and later senders of the same id."""

    request: CommandRequest
    waiters: list[asyncio.Future[Outcome]]

    @property
    def given_up(self) -> bool:
        return all(map(asyncio.Future.done, self.waiters))

    def answer(self, answer: Outcome | Exception) -> None:
        for waiter in self.waiters:
            if waiter.done():
                continue
            if isinstance(answer, Exception):
                waiter.set_exception(answer)
            else:
                waiter.set_result(answer)


@dataclass(slots=True, kw_only=True)
class ThroughputEstimator:
    """How many commands a second a queue hands out while it is never empty."""

    # While it is unknown, nothing is rejected because of it.
    per_s: float = math.inf
    _since_s: float = 0.0
    _taken: int = 0
    _busy: bool = False

    def took(self, commands: int, now_s: float, *, more: bool) -> None:
        """`more`: some are left, so the queue is not idle until the next call."""
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


@dataclass(slots=True, eq=False)
class Backlog:
    """One principal's waiting commands, first in, first out."""

    principal: str
    pendings: deque[Pending] = field(default_factory=deque)
    size_bytes: int = 0


@dataclass(slots=True, kw_only=True)
class CommandQueue:
    """Principals take turns, one command each: a principal that sends more than is processed delays only itself.

    Timers and saga progress go before clients and are never refused: they are few, limited by the existing sagas and
    timers, and they free what clients wait for.
    """

    commands_max: int = COMMANDS_MAX
    bytes_max: int = BYTES_MAX
    wait_max_s: float = WAIT_MAX_S
    commands_always: int = COMMANDS_ALWAYS
    throughput: ThroughputEstimator = field(default_factory=ThroughputEstimator)
    _urgent: deque[Pending] = field(default_factory=deque)
    # The non-empty ones, by principal and in the order of their turns.
    _backlogs: dict[str, Backlog] = field(default_factory=dict)
    _turns: deque[Backlog] = field(default_factory=deque)
    _commands: int = 0
    _bytes: int = 0
    # The number that the caller of `filled` waits for.
    _enough: float = 1
    _filled: asyncio.Event = field(default_factory=asyncio.Event)

    def __len__(self) -> int:
        return len(self._urgent) + self._commands

    def put(self, pending: Pending) -> None:
        """Raises QueueFull at once if the principal's backlog, or all of them, have reached a limit."""
        request = pending.request
        if request.lane is Lane.URGENT:
            self._urgent.append(pending)
        else:
            self.check_room(request.principal, 1, request.size_bytes)
            self._add(request.principal, [pending], request.size_bytes)
        self._look()

    def put_all(self, pendings: Sequence[Pending]) -> None:
        """Queues commands of one client in sequence, all or none. Raises QueueFull if not all have room."""
        if not pendings:
            return
        principal = pendings[0].request.principal
        size_bytes = sum(pending.request.size_bytes for pending in pendings)
        self.check_room(principal, len(pendings), size_bytes)
        self._add(principal, pendings, size_bytes)
        self._look()

    def _add(self, principal: str, pendings: Sequence[Pending], size_bytes: int) -> None:
        backlog = self._backlogs.get(principal)
        if backlog is None:
            backlog = self._backlogs[principal] = Backlog(principal)
            self._turns.append(backlog)
        backlog.pendings.extend(pendings)
        backlog.size_bytes += size_bytes
        self._commands += len(pendings)
        self._bytes += size_bytes

    def check_room(self, principal: str, commands: int, size_bytes: int) -> None:
        """Raises QueueFull if a principal has no room for that many more, or they would wait too long.

        A principal that is alone may use all the room. If all together exceed it, only those with more than an equal
        share are rejected.
        """
        backlog = self._backlogs.get(principal)
        own, own_bytes = (len(backlog.pendings), backlog.size_bytes) if backlog is not None else (0, 0)
        sharing = len(self._turns) + (backlog is None)
        limit = min(max(self.throughput.per_s * self.wait_max_s, self.commands_always), self.commands_max)
        if (
            own + commands > self.commands_max
            or own_bytes + size_bytes > self.bytes_max
            or (self._commands > limit and own * sharing > limit)
            or (self._bytes > self.bytes_max and own_bytes * sharing > self.bytes_max)
            or self._commands + commands > TOTAL_FACTOR * self.commands_max
            or self._bytes + size_bytes > TOTAL_FACTOR * self.bytes_max
        ):
            raise QueueFull(queued=own, queued_bytes=own_bytes)

    def put_back(self, pendings: list[Pending]) -> None:
        """Returns commands that were taken but not done to the front, in order, ignoring the limits."""
        for pending in reversed(pendings):
            request = pending.request
            if request.lane is Lane.URGENT:
                self._urgent.appendleft(pending)
                continue
            self._add(request.principal, (), request.size_bytes)
            self._backlogs[request.principal].pendings.appendleft(pending)
            self._commands += 1
        self._look()

    def take(self, limit: int, now_s: float) -> list[Pending]:
        """At most `limit`, urgent ones first. `now_s` is monotonic: it measures the rate of the queue."""
        taken = [self._urgent.popleft() for _ in range(min(limit, len(self._urgent)))]
        while self._turns and len(taken) < limit:
            backlog = self._turns.popleft()
            # A principal that is alone has all the turns.
            taken += self._from(backlog, 1 if self._turns else limit - len(taken))
            if backlog.pendings:
                self._turns.append(backlog)
            else:
                del self._backlogs[backlog.principal]
        self.throughput.took(len(taken), now_s, more=bool(self._commands))
        return taken

    def _from(self, backlog: Backlog, count: int) -> list[Pending]:
        pendings = backlog.pendings
        if count >= len(pendings):
            taken, size_bytes = list(pendings), backlog.size_bytes
            pendings.clear()
        else:
            taken = [pendings.popleft() for _ in range(count)]
            size_bytes = sum(pending.request.size_bytes for pending in taken)
        backlog.size_bytes -= size_bytes
        self._bytes -= size_bytes
        self._commands -= len(taken)
        return taken

    def clients(self) -> Iterator[Pending]:
        """The clients' waiting commands, one principal after the other."""
        return (pending for backlog in self._turns for pending in backlog.pendings)

    def __iter__(self) -> Iterator[Pending]:
        return chain(self._urgent, self.clients())

    def wake(self) -> None:
        """Wakes the caller of `filled`, even if nothing has arrived."""
        self._filled.set()

    async def filled(self, enough: float) -> None:
        """Returns when that many wait, or when woken."""
        self._enough = enough
        if len(self) < enough:
            self._filled.clear()
            await self._filled.wait()

    def _look(self) -> None:
        if len(self) >= self._enough:
            self._filled.set()
