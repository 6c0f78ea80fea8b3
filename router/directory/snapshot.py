"""The last known good copy of the directory on the local disk, read while the database is away.

It is a SQLite file: consistent if the process dies at any moment, one page read per lookup, and only changes written.
"""

import asyncio
import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import structlog

from cells.background import Background, in_background
from cells.sql import queries
from router.directory.cells import CellStore
from router.directory.topology import Cell, CellState, Topology
from router.directory.users import CopiedHome, Directory
from router.refusals import DirectoryUnavailable

log = structlog.get_logger()

FORMAT = "1"
# SQLite's own wait for another connection, for example of a second process on the same file.
_BUSY_S = 5.0
_OWNER_ONLY = 0o600
_FOLDER_MODE = 0o700


# How old the copy may be regarding writes of other routers; writes made here are copied at once.
COPY_S = 1.0
# Registrations arrive by the hundred and are copied together.
PAUSE_S = 0.05
PAGE = 5_000


class Snapshot:
    """Reads take microseconds and run in the caller's thread; writes run in another thread. To be closed.

    Raises:
        sqlite3.Error: from opening and writing; a copy that cannot be read finds no user.
    """

    def __init__(self, path: Path) -> None:
        self._sql = queries("router.sql", "snapshot.sql")
        self._path = path
        _keep_private(path)
        self._writer, self._reader = self._opened(), self._connected()
        self._facts: dict[str, str] = dict(self._reader.execute(self._sql["facts"]))
        if self._facts.get("format", FORMAT) != FORMAT:
            self._begin_anew()

    @property
    def directory_id(self) -> str:
        """The directory that was copied; empty: none yet."""
        return self._facts.get("directory_id", "")

    @property
    def cursor(self) -> int:
        """The copy has the effects of every transaction before this one."""
        return int(self._facts.get("cursor", "0"))

    def topology(self) -> Topology:
        cells = [
            Cell(name=name, region=region, endpoints=tuple(endpoints.split("+")), weight=weight, state=CellState(state))
            for name, region, endpoints, weight, state in self._reader.execute(self._sql["cells"])
        ]
        return Topology(cells, version=int(self._facts.get("version", "0")), read_only=True)

    def find(self, user_id: UUID) -> CopiedHome | None:
        """None does not mean that the user is unknown: the copy is slightly old."""
        try:
            row = self._reader.execute(self._sql["user"], (user_id.bytes,)).fetchone()
        except sqlite3.Error as problem:
            log.error("snapshot_unreadable", problem=str(problem))  # noqa: TRY400 - said in a line
            return None
        return None if row is None else CopiedHome(user_id, *row)

    async def put_topology(self, directory_id: UUID, topology: Topology) -> None:
        """Stores the current cells."""
        facts = {"format": FORMAT, "directory_id": str(directory_id), "version": str(topology.version)}
        if not facts.items() <= self._facts.items():
            await asyncio.to_thread(self._put, facts, cells=topology.cells)

    async def put_users(self, homes: Sequence[CopiedHome]) -> None:
        if homes:
            await asyncio.to_thread(self._put, {}, homes=homes)

    async def put_cursor(self, cursor: int) -> None:
        if cursor != self.cursor:
            await asyncio.to_thread(self._put, {"cursor": str(cursor)})

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    def _put(
        self, facts: dict[str, str], *, cells: Sequence[Cell] | None = None, homes: Sequence[CopiedHome] = ()
    ) -> None:
        with self._writer:
            if cells is not None:
                self._writer.execute(self._sql["forget_cells"])
                self._writer.executemany(self._sql["put_cell"], [_cell_row(cell) for cell in cells])
            self._writer.executemany(
                self._sql["put_user"], [(home.user_id.bytes, home.cell, home.epoch, home.residency) for home in homes]
            )
            self._writer.executemany(self._sql["put_fact"], list(facts.items()))
        self._facts |= facts

    def _begin_anew(self) -> None:
        """Starts over, because the file has another format version."""
        log.warning("snapshot_begins_anew", problem=f"format {self._facts['format']}, ours is {FORMAT}")
        with self._writer:
            for table in ("facts", "cells", "users"):
                self._writer.execute(self._sql[f"forget_{table}"])
        self._facts.clear()

    def _opened(self) -> sqlite3.Connection:
        try:
            return self._connected()
        except sqlite3.DatabaseError as problem:
            # The copy can be made again, and must not keep the router from starting.
            log.warning("snapshot_thrown_away", problem=str(problem))
            for end in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + end).unlink(missing_ok=True)
            _keep_private(self._path)
            return self._connected()

    def _connected(self) -> sqlite3.Connection:
        # Used by several threads, one after the other, never two at once.
        connection = sqlite3.connect(self._path, timeout=_BUSY_S, check_same_thread=False)
        try:
            connection.executescript(self._sql["make"])
        except sqlite3.Error:
            connection.close()
            raise
        return connection


def _keep_private(path: Path) -> None:
    """Makes the file and SQLite's side files readable by their owner only: they contain everybody's home.

    So is a folder created for them; an existing folder keeps its mode, because others may use it.
    """
    path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, _OWNER_ONLY))
    for end in ("", "-wal", "-shm"):
        file = path.with_name(path.name + end)
        if file.exists():
            file.chmod(_OWNER_ONLY)


def _cell_row(cell: Cell) -> tuple[str, str, str, int, str]:
    return (cell.name, cell.region, "+".join(cell.endpoints), cell.weight, cell.state.value)


@dataclass(slots=True, kw_only=True)
class Copier(Background):
    """Copies changes of the directory shortly after they are made."""

    directory: Directory
    cells: CellStore
    snapshot: Snapshot
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    @in_background("snapshot")
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
        await self.snapshot.put_topology(*await self.cells.stored())
        # Read first, so that the next copy covers transactions that run meanwhile.
        oldest = await self.directory.oldest_under_way()
        # A restored database restarts its transaction ids.
        cursor = self.snapshot.cursor if self.snapshot.cursor <= oldest else 0
        async for page in self.directory.homes_since(cursor, PAGE):
            await self.snapshot.put_users(page)
        await self.snapshot.put_cursor(oldest)
