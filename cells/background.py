"""Background tasks: everything that a process does unasked, supervised in one way.

An unforeseen exception is logged with its traceback and counted for the metrics, and the work continues after a pause.
No error ends a task; only `stop` does.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, TypeVar

import structlog

Work = TypeVar("Work", bound=Callable[..., Awaitable[None]])

log = structlog.get_logger()

PAUSE_FIRST_S = 1.0
PAUSE_MAX_S = 2.0
# A cancellation may be swallowed, as by `asyncio.wait_for` until Python 3.12, which libraries use.
CANCEL_AGAIN_S = 3.0

# Unforeseen exceptions of this process since its start, by task. A series that begins at 0 lets an alert see its first
# increase.
failures: Counter[str] = Counter({"leadership": 0, "stop": 0, "peer_addresses": 0})


def note_failure(name: str, **facts: object) -> None:
    """Logs and counts the exception that is being handled. `facts` go into the log: no amounts, no names."""
    failures[name] += 1
    log.exception("background_task_failed", task=name, **facts)  # noqa: LOG004 - called by handlers


def problem_of(error: Exception) -> str:
    """The error as text; for a group, each of its causes."""
    causes = error.exceptions if isinstance(error, ExceptionGroup) else (error,)
    return "; ".join(str(cause) or type(cause).__name__ for cause in causes)


async def ended(task: asyncio.Task[None] | None) -> None:
    """Cancels a task, repeatedly if needed, and returns when it has ended; at once if there is none."""
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=CANCEL_AGAIN_S)


@dataclass(slots=True)
class Backoff:
    """Pauses between attempts in seconds: doubled after each failure, up to a limit."""

    pause_s: float = 0.0

    def next_s(self) -> float:
        self.pause_s = min(max(self.pause_s * 2, PAUSE_FIRST_S), PAUSE_MAX_S)
        return self.pause_s

    def reset(self) -> None:
        self.pause_s = 0.0


@dataclass(slots=True, kw_only=True)
class BackgroundTask:
    """Repeats `work` until it is stopped, `every_s` after each end; None: the task is done when `work` returns.

    Errors of the types in `outages` are expected, for example if the database is away: they are logged and not counted.
    """

    name: str
    work: Callable[[], Awaitable[None]]
    every_s: float | None = 0.0
    outages: tuple[type[Exception], ...] = ()
    _task: asyncio.Task[None] | None = None
    _backoff: Backoff = field(default_factory=Backoff)

    def __post_init__(self) -> None:
        failures.setdefault(self.name, 0)

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        self._backoff.reset()
        self._task = asyncio.create_task(self._run(), name=self.name)

    async def stop(self) -> None:
        task, self._task = self._task, None
        await ended(task)

    def cancel(self) -> None:
        """As `stop`, without waiting for the end."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    def is_current(self) -> bool:
        """Whether the running task is this one: it may have been cancelled, and a successor started."""
        return self._task is asyncio.current_task()

    async def _run(self) -> None:
        # A library may swallow the cancellation: a stopped task begins no further round.
        while self.is_current():
            began_s = asyncio.get_running_loop().time()
            if not await self._round():
                # Work that ran for long before it failed starts again with short pauses.
                if asyncio.get_running_loop().time() - began_s > PAUSE_MAX_S:
                    self._backoff.reset()
                await asyncio.sleep(self._backoff.next_s())
            elif self.every_s is None:
                return
            else:
                self._backoff.reset()
                await asyncio.sleep(self.every_s)

    async def _round(self) -> bool:
        """Whether the work has finished."""
        try:
            await self.work()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Not our cancellation: something that the work waited for was cancelled.
            note_failure(self.name)
        except self.outages as error:
            log.warning("background_task_waits", task=self.name, problem=problem_of(error))
        except Exception:  # noqa: BLE001 - this is the place for it
            note_failure(self.name)
        else:
            return True
        return False


@asynccontextmanager
async def running(*tasks: BackgroundTask) -> AsyncIterator[None]:
    """Runs the tasks while this is entered."""
    for task in tasks:
        task.start()
    try:
        yield
    finally:
        await asyncio.gather(*(task.stop() for task in tasks))


def in_background(
    name: str, *, every_s: float | None = 0.0, outages: tuple[type[Exception], ...] = ()
) -> Callable[[Work], Work]:
    """Makes a method the work of its object's background task, which has this name."""

    def declared(work: Work) -> Work:
        work.task = partial(BackgroundTask, name=name, every_s=every_s, outages=outages)  # type: ignore[attr-defined]
        return work

    return declared


@dataclass(slots=True, kw_only=True)
class Background:
    """The base of classes with one method that works `in_background`, while `background` runs."""

    background: BackgroundTask = field(init=False)
    # The method, by its name, and what makes its task.
    _declared: ClassVar[tuple[str, Callable[..., BackgroundTask]]]

    def __init_subclass__(cls) -> None:
        for name, method in [*vars(cls).items()]:
            if hasattr(method, "task"):
                cls._declared = name, method.task

    def __post_init__(self) -> None:
        name, make = self._declared
        self.background = make(work=getattr(self, name))


@dataclass(slots=True, kw_only=True)
class LeaderTask(Background):
    """Its background task runs while this process leads."""

    async def start(self) -> None:
        self.background.start()

    async def stop(self) -> None:
        await self.background.stop()
