"""Who leads: at most one process at a time writes to a cell's database.

The fence is the epoch in the head row, not the beat: a leader that was only slow finds its writes refused.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from cells.celltime import CellTime
from cells.ports import Fenced, Head, Store, StoreError
from cells.writer import Writer

log = structlog.get_logger()

TAKEOVER_S = 2.0
LOOK_S = 0.25


@dataclass(slots=True, kw_only=True)
class Leadership:
    """Waits its turn, leads, and waits again when deposed. `began` and `ended` start and stop what a leader runs."""

    store: Store
    time: CellTime
    writer: Writer
    began: Callable[[], Awaitable[None]]
    ended: Callable[[], Awaitable[None]]
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Returns only after `stop`."""
        while not self._stopping.is_set():
            try:
                head = await self._claimed()
                if head is not None:
                    await self._lead(head)
            except Fenced:
                log.warning("deposed", cell=self.time.cell, epoch=self.writer.epoch)
            except StoreError as error:
                log.warning("store_unavailable", problem=str(error))
                await self._look_away()

    def stop(self) -> None:
        self._stopping.set()
        self.writer.stop()

    async def _claimed(self) -> Head | None:
        """Raises the epoch once no leader has been seen for a while; None when asked to stop first."""
        seen = await self.store.head()
        since_s = self.time.clock.monotonic_s()
        while seen.beat and self.time.clock.monotonic_s() - since_s < TAKEOVER_S:
            if await self._look_away():
                return None
            head = await self.store.head()
            if (head.epoch, head.beat) != (seen.epoch, seen.beat):
                seen, since_s = head, self.time.clock.monotonic_s()
        return await self.store.claim(expected_epoch=seen.epoch)

    async def _lead(self, head: Head) -> None:
        await self._wait_out(head.hlc_bound_ms)
        log.info("leading", cell=head.cell, epoch=head.epoch, position=head.position)
        leading = asyncio.create_task(self.writer.lead(head))
        try:
            await self.writer.ready()
            await self.began()
            await leading
        finally:
            await self.ended()
            leading.cancel()
            await asyncio.wait([leading])

    async def _wait_out(self, bound_ms: int) -> None:
        """Until the wall clock has passed every stamp that a predecessor may have given out."""
        while (ahead_ms := bound_ms - self.time.clock.wall_ms()) > 0:
            if ahead_ms > self.time.hlc.max_offset_ms + 1_000:
                log.error("clock_behind_log", ahead_ms=ahead_ms)
            await asyncio.sleep(min(ahead_ms / 1_000, 1.0))
        self.time.hlc.restart(bound_ms)

    async def _look_away(self) -> bool:
        """A short wait; True when asked to stop meanwhile."""
        try:
            await asyncio.wait_for(self._stopping.wait(), LOOK_S)
        except TimeoutError:
            return False
        return True
