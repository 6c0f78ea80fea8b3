"""Leadership: at most one process at a time writes to a cell's database, and runs the tasks of a leader.

The fence is the epoch in the head row, not the beat: the writes of a leader that was only slow are refused.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import structlog

from cells.background import Backoff, note_failure
from cells.store.ports import Fenced, Head, HeadMoved, Store, StoreError
from cells.store.unusable import CannotServe, HeadNotProven
from cells.time.celltime import CellTime
from cells.writer.batch import Commit
from cells.writer.writer import Writer

log = structlog.get_logger()

TAKEOVER_S = 2.0
POLL_S = 0.25


class Task(Protocol):
    """Works only while this process leads."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...


@runtime_checkable
class Follower(Protocol):
    def follow(self, commit: Commit) -> None:
        """Receives each commit of the cell, in order."""


@dataclass(slots=True, kw_only=True)
class Leadership:
    """Waits, leads, and waits again when deposed."""

    writer: Writer
    # Runs before this process writes anything.
    prepare: Callable[[], Awaitable[None]]
    # In the order in which they start; those that are followers receive the commits.
    tasks: Sequence[Task]
    # Another process has been seen to lead: this one is a standby.
    standing_by: bool = False
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _backoff: Backoff = field(default_factory=Backoff)

    @property
    def _store(self) -> Store:
        return self.writer.store

    @property
    def _time(self) -> CellTime:
        return self.writer.time

    async def run(self) -> None:
        """Returns after `stop`; an unforeseen error ends a lead, and another begins. Raises CannotServe."""
        self.writer.followers += [task.follow for task in self.tasks if isinstance(task, Follower)]
        while not self._stopping.is_set():
            try:
                head = await self._claimed()
                if head is not None:
                    await self._lead(head)
            except HeadMoved as error:
                cell, position = self._time.cell, self._time.durable_position
                log.critical("head_moved_by_another_hand", cell=cell, epoch=self.writer.epoch, problem=str(error))
                raise HeadNotProven(cell=cell, position=position + 1, since=position) from error
            except Fenced:
                log.warning("deposed", cell=self._time.cell, epoch=self.writer.epoch)
            except StoreError as error:
                log.warning("store_unavailable", problem=str(error))
                await self._look_away()
            except CannotServe:
                raise
            except Exception:  # noqa: BLE001 - what is durable is so, and all else is loaded anew
                note_failure("leadership", cell=self._time.cell)
                await self._look_away(self._backoff.next_s())

    @property
    def leading(self) -> bool:
        return self.writer.leading

    def stop(self) -> None:
        self._stopping.set()
        self.writer.stop()

    async def _claimed(self) -> Head | None:
        """Raises the epoch once no leader has been seen for a while; None if it was asked to stop first."""
        self.standing_by = False
        seen = await self._store.head()
        since_s = self._time.clock.monotonic_s()
        while seen.beat and self._time.clock.monotonic_s() - since_s < TAKEOVER_S:
            if await self._look_away():
                return None
            head = await self._store.head()
            if (head.epoch, head.beat) != (seen.epoch, seen.beat):
                seen, since_s = head, self._time.clock.monotonic_s()
                self.standing_by = True
        head = await self._store.claim(expected_epoch=seen.epoch)
        self.standing_by = False
        return head

    async def _lead(self, head: Head) -> None:
        if not await self._waited_out(head.hlc_bound_ms):
            return
        await self.prepare()
        log.info("leading", cell=head.cell, epoch=head.epoch, position=head.position)
        leading = asyncio.create_task(self.writer.lead(head))
        try:
            # Lets the task begin and launch its first commit before it is awaited.
            await asyncio.sleep(0)
            if self._stopping.is_set():
                self.writer.stop()
            await self.writer.ready()
            for task in self.tasks:
                await task.start()
            self._backoff.reset()
            await leading
        finally:
            await stop_all(reversed(self.tasks))
            leading.cancel()
            await asyncio.wait([leading])

    async def _waited_out(self, bound_ms: int) -> bool:
        """Waits until the wall clock has passed every stamp of a predecessor; False if it was asked to stop first."""
        while (ahead_ms := bound_ms - self._time.clock.wall_ms()) > 0:
            if ahead_ms > self._time.hlc.max_offset_ms + 1_000:
                log.error("clock_behind_log", ahead_ms=ahead_ms)
            if await self._look_away(min(ahead_ms / 1_000, 1.0)):
                return False
        self._time.hlc.restart(bound_ms)
        return not self._stopping.is_set()

    async def _look_away(self, seconds: float = POLL_S) -> bool:
        """A short wait; True if it was asked to stop meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True


async def stop_all(tasks: Iterable[Task]) -> None:
    """Stops them one after the other; a task that fails to stop does not keep others running."""
    for task in tasks:
        try:
            await task.stop()
        except Exception:  # noqa: BLE001 - the next one is stopped all the same
            note_failure("stop", part=type(task).__name__)
