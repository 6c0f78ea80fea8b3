"""The users' homes, in the router's own PostgreSQL. An answer is durable when it is given."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

import asyncpg

from cells.sql import queries
from router.database import Database
from router.grouping import Grouping
from router.snapshot import CopiedHome
from router.topology import Cell, CellState
from server.shell.postgres.database import Connection


class UserState(StrEnum):
    # The user has a home; its account is not known to be open.
    OPENING = "OPENING"
    OPEN = "OPEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    user_id: UUID
    cell: Cell
    # Rises with every move of the user.
    epoch: int
    # The region that the user's data must not leave; empty: any region.
    residency: str
    state: UserState
    # The residency at registration; a move may have changed it since.
    registered_residency: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A new user, and its proposed home."""

    user_id: UUID
    cell: Cell
    residency: str


class Directory:
    """Concurrent calls share statements and commits.

    Raises:
        DirectoryUnavailable, DirectoryBusy: from every method; then it is unknown whether a write took effect.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = queries("router.sql", "directory.sql")
        self._find = Grouping(self._find_together)
        self._add = Grouping(self._add_together)
        self._mark_open = Grouping(self._mark_open_together)

    async def find(self, user_id: UUID) -> Home | None:
        return await self._find(user_id)

    async def add(self, placed: Placed) -> Home | None:
        """The user's home: the proposed one, or the one that the user already has.

        None: the proposed cell accepts no new users any more.
        """
        return await self._add(placed)

    async def mark_open(self, home: Home) -> None:
        """Records that the home cell has opened the account of this epoch."""
        await self._mark_open(home)

    async def homes_since(self, cursor: int, pages_of: int) -> AsyncIterator[Sequence[CopiedHome]]:
        """The homes written by transaction `cursor` or later, page by page."""
        homed_by, user_id = cursor, UUID(int=0)
        while True:
            async with self._database.connection() as connection:
                rows = await connection.fetch(self._sql["homed_since"], cursor, homed_by, user_id, pages_of)
            yield [CopiedHome(row["user_id"], row["cell"], row["epoch"], row["residency"]) for row in rows]
            if len(rows) < pages_of:
                return
            homed_by, user_id = rows[-1]["homed_by"], rows[-1]["user_id"]

    async def homes_after(self, user_id: UUID, limit: int) -> list[tuple[CopiedHome, bool]]:
        """The homes of all users by user_id, and whether the account there is known to be open."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(self._sql["homes_after"], user_id, limit)
        return [(CopiedHome(*row[:4]), row["open"]) for row in rows]

    async def oldest_under_way(self) -> int:
        """A transaction id: all effects of earlier transactions are visible now."""
        async with self._database.connection() as connection:
            oldest: int = await connection.fetchval(self._sql["oldest_under_way"])
        return oldest

    async def _find_together(self, user_ids: Sequence[UUID]) -> list[Home | None]:
        async with self._database.connection() as connection:
            homes = await self._homes(connection, user_ids)
        return [homes.get(user_id) for user_id in user_ids]

    async def _add_together(self, group: Sequence[Placed]) -> list[Home | None]:
        columns = (
            [placed.user_id for placed in group],
            [placed.cell.name for placed in group],
            [placed.cell.region for placed in group],
            [placed.residency for placed in group],
        )
        async with self._database.connection() as connection:
            await connection.execute(self._sql["add_users"], *columns)
            homes = await self._homes(connection, columns[0])
        return [homes.get(placed.user_id) for placed in group]

    async def _mark_open_together(self, homes: Sequence[Home]) -> list[None]:
        async with self._database.connection() as connection:
            await connection.execute(
                self._sql["mark_open"], [home.user_id for home in homes], [home.epoch for home in homes]
            )
        return [None] * len(homes)

    async def _homes(self, connection: Connection, user_ids: Sequence[UUID]) -> dict[UUID, Home]:
        rows = await connection.fetch(self._sql["users"], list(set(user_ids)))
        return {row["user_id"]: _home(row) for row in rows}


def cell_of(row: asyncpg.Record) -> Cell:
    return Cell(
        name=row["name"],
        region=row["region"],
        endpoints=tuple(row["endpoints"]),
        weight=row["weight"],
        state=CellState(row["state"]),
    )


def _home(row: asyncpg.Record) -> Home:
    return Home(
        user_id=row["user_id"],
        cell=cell_of(row),
        epoch=row["epoch"],
        residency=row["residency"],
        state=UserState(row["user_state"]),
        registered_residency=row["registered_residency"],
    )
