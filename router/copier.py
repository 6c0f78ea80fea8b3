"""Keeps the snapshot up with the directory: what has changed since the last look, a moment after it has."""

import asyncio
import sqlite3
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from router.directory import Directory
from router.operations import Operations
from router.refusals import DirectoryUnavailable
from router.snapshot import Snapshot
from server.shell.background import BackgroundTask

log = structlog.get_logger()

# How old the copy may be of what other routers have written; what was written here is copied at once.
COPY_S = 1.0
# Registrations come by the hundred: they are copied together.
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
            # The copy is what there is, then.
            pass
        except sqlite3.Error as problem:
            log.error("snapshot_not_written", problem=str(problem))  # noqa: TRY400 - said in a line
        await asyncio.sleep(PAUSE_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(COPY_S):
                await self._wake.wait()
        self._wake.clear()

    def wake(self) -> None:
        """Something was written here."""
        self._wake.set()

    async def copy(self) -> None:
        """Raises DirectoryUnavailable, sqlite3.Error; what was copied stays."""
        stored = await self.operations.stored()
        await self.snapshot.put_topology(stored.directory_id, stored.topology)
        # Asked first: what is done meanwhile is looked at again by the next one.
        oldest = await self.directory.oldest_under_way()
        # A database that was restored counts its transactions anew.
        cursor = self.snapshot.cursor if self.snapshot.cursor <= oldest else 0
        async for page in self.directory.homes_since(cursor, PAGE):
            await self.snapshot.put_users(page)
        await self.snapshot.put_cursor(oldest)
