"""An event loop without a clock or a network: time jumps to the next timer, and a seed decides the order.

Everything that runs in it belongs to a process. Within one, callbacks run first in, first out, as asyncio promises; the
process that continues is drawn, because there is no order between processes. A process can be stopped and resumed
(SIGSTOP, SIGCONT), or killed (SIGKILL: not even a `finally` runs).
"""

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Args = TypeVarTuple("Args")

# A run that takes more turns is in an endless loop.
TURNS_MAX = 5_000_000
# Lists of tasks are cleared of finished ones when they reach this length.
TASKS_KEPT = 64
# Cancelling may have to be repeated: a `finally` may wait once more.
CANCELS_MAX = 100


class Process:
    """The pending work of one process."""

    def __init__(self, name: str, loop: "VirtualLoop") -> None:
        self.name = name
        self.ready: deque[Callback] = deque()
        self.stopped = False
        self.ended = False
        # Referenced here: the garbage collector would close a waiting task without a reference at any time.
        self.tasks: list[asyncio.Task[Any]] = []
        self.context = copy_context()
        self.context.run(_PROCESS.set, self)
        self._loop = loop

    def start(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """The task, and everything that it starts, belong to this process."""
        return self._loop.create_task(coroutine, context=self.context.copy())

    def launch(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """The same, without waiting for it."""
        self.start(coroutine).add_done_callback(self._loop.look_at)

    def stop(self) -> None:
        self.stopped = True
        self._loop.rest(self)

    def wake(self) -> None:
        self.stopped = False
        self._loop.go_on(self)

    def end(self) -> None:
        self.ended = True
        self._loop.rest(self)


_PROCESS: ContextVar[Process] = ContextVar("process")


class Callback(asyncio.TimerHandle):
    """As asyncio's own, with the process that it belongs to. A run makes so many that each step of it counts."""

    __slots__ = ("process",)

    def __init__(
        self,
        loop: "VirtualLoop",
        callback: Callable[[*Args], object],
        args: tuple[*Args],
        context: Context | None,
        when: float = 0.0,
    ) -> None:
        if context is None:
            context = copy_context()
        self._loop, self._callback, self._args, self._context, self._when = loop, callback, args, context, when
        self._cancelled = False
        self.process: Process = context.get(_PROCESS, loop.world)


class VirtualLoop(asyncio.AbstractEventLoop):
    """As much of an event loop as code without sockets, threads and signals needs: see `virtual_loop`."""

    def __init__(self, chance: random.Random) -> None:
        # An error that no task waited for. It ends the run.
        self.failure: BaseException | None = None
        self.turns = 0
        self._chance = chance
        self._now_s = 0.0
        self._processes: list[Process] = []
        self._runnable: list[Process] = []
        self._timers: list[tuple[float, int, Callback]] = []
        self._count = 0
        self._closed = False
        # Everything outside the processes.
        self.world = self.process("world")

    def process(self, name: str) -> Process:
        process = Process(name, self)
        self._processes.append(process)
        return process

    # --- the interface that asyncio uses ------------------------------------------------------------------------------

    def time(self) -> float:
        return self._now_s

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return asyncio._get_running_loop() is self

    def is_closed(self) -> bool:
        return self._closed

    def call_soon(
        self,
        callback: Callable[[*Args], object],
        *args: *Args,
        context: Context | None = None,
    ) -> asyncio.Handle:
        handle = Callback(self, callback, args, context)
        self._enqueue(handle)
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[[*Args], object],
        *args: *Args,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = Callback(self, callback, args, context, when)
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, handle))
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Args], object],
        *args: *Args,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """A cancelled timer is skipped when its time comes."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        process = _PROCESS.get(self.world) if context is None else context.get(_PROCESS, self.world)
        task = asyncio.Task(coro, loop=self, name=name or process.name, context=context)
        process.tasks.append(task)
        if len(process.tasks) >= TASKS_KEPT:
            process.tasks = [each for each in process.tasks if not each.done()]
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception") or RuntimeError(str(context.get("message")))
        # A process that was killed within a step raises something that is no Exception.
        if isinstance(error, Exception):
            self.failure = self.failure or error

    def look_at(self, task: asyncio.Task[Any]) -> None:
        """The error of a task that nobody waits for ends the run."""
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self.failure = self.failure or error

    # --- running ----------------------------------------------------------------------------------------------------

    def run_until_complete(self, future: Coroutine[Any, Any, T]) -> T:  # type: ignore[override]
        """Runs everything until `future`, a coroutine outside all processes, is done."""
        task = self.world.start(future)
        asyncio._set_running_loop(self)
        try:
            while not task.done() and self.failure is None:
                self._turn()
        finally:
            asyncio._set_running_loop(None)
        if self.failure is not None:
            raise self.failure
        return task.result()

    def close(self) -> None:
        """Cancels everything that still waits, in every process, also in stopped and killed ones."""
        asyncio._set_running_loop(self)
        try:
            for process in self._processes:
                process.ended = False
                process.wake()
            for _ in range(CANCELS_MAX):
                left = [task for process in self._processes for task in process.tasks if not task.done()]
                if not left:
                    break
                for task in left:
                    task.cancel()
                while self._runnable:
                    self._run_one()
        finally:
            asyncio._set_running_loop(None)
        self._timers.clear()
        self._closed = True

    def sleep_all(self, seconds: float) -> None:
        """Suspends everything for that long: time passes, and nothing happens in it."""
        self._now_s += seconds

    def rest(self, process: Process) -> None:
        if process in self._runnable:
            self._runnable.remove(process)

    def go_on(self, process: Process) -> None:
        if process.ready and not process.ended and process not in self._runnable:
            self._runnable.append(process)

    def _enqueue(self, handle: Callback) -> None:
        process = handle.process
        # Pending work of a killed process is kept, so that `close` can clean it up.
        if not process.ready and not process.stopped and not process.ended:
            self._runnable.append(process)
        process.ready.append(handle)

    def _turn(self) -> None:
        timers = self._timers
        while not self._runnable or (timers and timers[0][0] <= self._now_s):
            if not timers:
                raise RuntimeError("everybody waits, and for nothing")
            when_s, _, handle = heapq.heappop(timers)
            if handle._cancelled:
                continue
            self._now_s = max(self._now_s, when_s)
            self._enqueue(handle)
        self._run_one()

    def _run_one(self) -> None:
        self.turns += 1
        if self.turns > TURNS_MAX:
            raise RuntimeError("the schedule goes round in circles")
        runnable = self._runnable
        index = int(self._chance.random() * len(runnable)) if len(runnable) > 1 else 0
        process = runnable[index]
        handle = process.ready.popleft()
        if not process.ready:
            runnable[index] = runnable[-1]
            runnable.pop()
        if not handle._cancelled:
            try:
                handle._context.run(handle._callback, *handle._args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 - as asyncio does
                self.call_exception_handler({"exception": error})


def virtual_loop(chance: random.Random) -> VirtualLoop:
    # The missing methods must not be used here.
    return VirtualLoop(chance)  # type: ignore[abstract]


# New Year 2026: late enough for version 7 UUIDs to look real.
START = datetime(2026, 1, 1, tzinfo=UTC)
START_MS = int(START.timestamp()) * 1_000


class VirtualClock:
    """Implements cells/ports.Clock."""

    def __init__(self, loop: VirtualLoop, *, offset_ms: int = 0) -> None:
        self._loop = loop
        # How far the wall clock is ahead of the world's time.
        self.offset_ms = offset_ms

    def wall_ms(self) -> int:
        return START_MS + int(self._loop.time() * 1_000) + self.offset_ms

    def wall(self) -> datetime:
        return START + timedelta(seconds=self._loop.time(), milliseconds=self.offset_ms)

    def monotonic_s(self) -> float:
        return self._loop.time()
