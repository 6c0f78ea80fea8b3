"""Keeps the snapshot up to date with the directory: copies changes shortly after they are made."""

import asyncio
import sqlite3
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from cells.background import BackgroundTask
from router.directory import Directory
from router.operations import Operations
from router.refusals import DirectoryUnavailable
from router.snapshot import Snapshot

log = structlog.get_logger()

# How old the copy may be regarding writes of other routers; writes made here are copied at once.
COPY_S = 1.0
# Registrations arrive by the hundred and are copied together.
PAUSE_S = 0.05
PAGE = 5_000


@dataclass(slots=True, kw_only=True)
class Copier:
    directory: Directory
    operations: Operations
    snapshot: Snapshot
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    background: BackgroundTask = field(init=False)

    def __post_init__(self) -> None:
        self.background = BackgroundTask(name="snapshot", work=self._copy_and_wait)

    async def _copy_and_wait(self) -> None:
        try:
            await self.copy()
        except DirectoryUnavailable:
            # Then the copy stays as it is.
            pass
        except sqlite3.Error as problem:
            log.error("snapshot_not_written", problem=str(problem))  # noqa: TRY400 - said in a line
        await asyncio.sleep(PAUSE_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(COPY_S):
                await self._wake.wait()
        self._wake.clear()

    def wake(self) -> None:
        """Signals a write made here."""
        self._wake.set()

    async def copy(self) -> None:
        """Raises DirectoryUnavailable, sqlite3.Error; rows that were copied stay."""
        stored = await self.operations.stored()
        await self.snapshot.put_topology(stored.directory_id, stored.topology)
        # Read first, so that the next copy covers transactions that run meanwhile.
        oldest = await self.directory.oldest_under_way()
        # A restored database restarts its transaction ids.
        cursor = self.snapshot.cursor if self.snapshot.cursor <= oldest else 0
        async for page in self.directory.homes_since(cursor, PAGE):
            await self.snapshot.put_users(page)
        await self.snapshot.put_cursor(oldest)
