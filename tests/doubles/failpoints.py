"""Points where tests make the process die, a leg be refused, held or answered wrongly, or the clock be wrong.

`tests/doubles/cell.py` is the process of a cell that has them. A failpoint is a line "POINT/LEG/DIRECTION":

    before-send, after-commit, before-record    the process dies there, as by kill -9
    refuse                                      the leg's cell refuses it definitely
    hold                                        the saga is held before the leg
    hold-taken, hold-done                       the leg's cell holds it, before and after its commit
    answer-KIND, answer-KIND-done               the leg's cell answers with TROUBLES[KIND], before and after its commit
    late                                        the leg's cell answers UNAVAILABLE, and takes it once the point is unset

and "clock/MILLISECONDS" moves the process's clock ahead by that much.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from cells.domain.record import replace
from cells.domain.refusals import DeadlinePassed, QueueFull, RefusedByFailpoint, Unavailable
from cells.domain.sagas.leg import LegMark
from cells.failpoints import NoFailpoints
from cells.requests import Outcome
from cells.sagas.steps import Steps
from cells.time.clocks import SystemClock

HOLD_POLL_S = 0.05
CLOCK = "clock/"
TROUBLES: dict[str, Exception] = {
    "UNAVAILABLE": Unavailable(problem="a failpoint"),
    "DEADLINE_EXCEEDED": DeadlinePassed(),
    "RESOURCE_EXHAUSTED": QueueFull(queued=0, queued_bytes=0),
    # As a bug looks to the server.
    "INTERNAL": ArithmeticError("a failpoint"),
}
GARBAGE = "GARBAGE"

log = structlog.get_logger()
# Legs that are taken later: nothing waits for them.
_late: set[asyncio.Task[None]] = set()


@dataclass(slots=True)
class Failpoints(NoFailpoints):
    """Names look like "before-send/escrow-out/action": a point, a leg, a direction.

    "@/path" names a file with more of them, one per line, read at each point: it may change meanwhile.
    """

    names: frozenset[str] = frozenset()

    def hit(self, point: str, leg: str, direction: str) -> None:
        """Kills this process as kill -9 would, if the point is set."""
        if self._is_set(f"{point}/{leg}/{direction}"):
            os.kill(os.getpid(), signal.SIGKILL)

    async def hold(self, leg: str, direction: str, point: str = "hold") -> None:
        """Holds the caller while the point is set."""
        if self._is_set(f"{point}/{leg}/{direction}"):
            log.info("held", command=point, leg=leg, direction=direction)
        while self._is_set(f"{point}/{leg}/{direction}"):  # noqa: ASYNC110 - a file, or nobody, unsets it
            await asyncio.sleep(HOLD_POLL_S)

    async def around(self, leg: str, direction: str, take: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """Takes the leg in its cell, with the faults that are set."""
        if self._is_set(f"refuse/{leg}/{direction}"):
            raise RefusedByFailpoint(leg=leg)
        await self.hold(leg, direction, "hold-taken")
        self._answer(leg, direction, "")
        if self._is_set(f"late/{leg}/{direction}"):
            task = asyncio.ensure_future(self._later(leg, direction, take))
            _late.add(task)
            task.add_done_callback(_late.discard)
            raise Unavailable(problem="a failpoint")
        outcome = await take()
        self.hit("after-commit", leg, direction)
        await self.hold(leg, direction, "hold-done")
        self._answer(leg, direction, "-done")
        if self._is_set(f"answer-{GARBAGE}/{leg}/{direction}"):
            return replace(outcome, result=LegMark(outcome.result.result, GARBAGE))  # type: ignore[arg-type]
        return outcome

    async def _later(self, leg: str, direction: str, take: Callable[[], Awaitable[Outcome]]) -> None:
        await self.hold(leg, direction, "late")
        try:
            await take()
        except Exception as error:  # noqa: BLE001 - nothing waits for the answer
            log.info("late_leg_refused", problem=str(error))

    def _answer(self, leg: str, direction: str, when: str) -> None:
        for kind, trouble in TROUBLES.items():
            if self._is_set(f"answer-{kind}{when}/{leg}/{direction}"):
                raise trouble

    def clock_offset_ms(self) -> int:
        return sum(int(name.removeprefix(CLOCK)) for name in self._set() if name.startswith(CLOCK))

    def _is_set(self, name: str) -> bool:
        return name in self.names or name in self._set()

    def _set(self) -> Iterator[str]:
        for name in self.names:
            yield name
            with suppress(FileNotFoundError):
                yield from Path(name[1:]).read_text().splitlines() if name.startswith("@") else ()


@contextmanager
def holding(steps: Steps, leg: str) -> Iterator[None]:
    """The sagas of `steps` do not take the leg meanwhile."""
    steps.failpoints = failpoints = Failpoints(frozenset({f"hold/{leg}/action"}))
    try:
        yield
    finally:
        failpoints.names = frozenset()


class FailingClock(SystemClock):
    """The machine's clock with a test's offset. The monotonic clock is right: nothing sets it."""

    def __init__(self, failpoints: Failpoints) -> None:
        self._failpoints = failpoints

    def wall_ms(self) -> int:
        return super().wall_ms() + self._failpoints.clock_offset_ms()

    def wall(self) -> datetime:
        return super().wall() + timedelta(milliseconds=self._failpoints.clock_offset_ms())
