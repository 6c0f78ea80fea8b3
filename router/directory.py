"""Who is at home where, in the router's own PostgreSQL. What it has answered is durable."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias
from uuid import UUID

import asyncpg
import structlog

from router.grouping import Grouping
from router.refusals import DirectoryUnavailable
from router.topology import Cell, CellState, Topology
from server.shell.database import Pool
from server.shell.queries import queries

log = structlog.get_logger()

# Quoted: generic for the type checker only.
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"

# The database is away, going or out of room, or has broken a deadlock: the same may succeed in a moment.
_PASSING = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
)


class UserState(StrEnum):
    # Has a home, whose account is not known to be open.
    OPENING = "OPENING"
    OPEN = "OPEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    user_id: UUID
    cell: Cell
    # Rises with every move of the user.
    epoch: int
    # The region that the user's data must not leave; empty: any will do.
    residency: str
    state: UserState


class RegionChanged(Exception):
    """cells: {name} is in region {region} in the directory; that cannot change: users may be bound to it"""

    def __init__(self, *, name: str, region: str) -> None:
        super().__init__((self.__doc__ or "").format(name=name, region=region))


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A new user, and where it is to be at home."""

    user_id: UUID
    cell: Cell
    residency: str


class Directory:
    """Calls that come at the same time share their statements and commits.

    Raises:
        DirectoryUnavailable, DirectoryBusy: from every method; nothing is known of what was to be written.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._sql = queries("router.sql", "directory.sql")
        self._find = Grouping(self._find_together)
        self._add = Grouping(self._add_together)
        self._mark_open = Grouping(self._mark_open_together)

    async def adopt(self, cells: Sequence[Cell]) -> Topology:
        """Takes over what the settings say, if anything, and returns all cells that the directory knows.

        Raises:
            RegionChanged: a cell is known in another region; nothing has changed.
        """
        async with self._connection() as connection, connection.transaction():
            if cells:
                await self._put_cells(connection, cells)
            return Topology([_cell(row) for row in await connection.fetch(self._sql["cells"])])

    async def find(self, user_id: UUID) -> Home | None:
        return await self._find(user_id)

    async def add(self, placed: Placed) -> Home:
        """The user's home: the one proposed, or the one that the user has already."""
        return await self._add(placed)

    async def mark_open(self, home: Home) -> None:
        """The home cell has said that the account of this epoch is open."""
        await self._mark_open(home)

    async def _put_cells(self, connection: Connection, cells: Sequence[Cell]) -> None:
        names = [cell.name for cell in cells]
        endpoints = ["+".join(cell.endpoints) for cell in cells]
        await connection.execute(self._sql["put_cells"], names, [cell.region for cell in cells], endpoints)
        regions = {cell.name: cell.region for cell in cells}
        for row in await connection.fetch(self._sql["cells"]):
            if regions.get(row["name"], row["region"]) != row["region"]:
                raise RegionChanged(name=row["name"], region=row["region"])
        for row in await connection.fetch(self._sql["withdraw_cells"], names):
            log.warning("cell_withdrawn", cell=row["name"])

    async def _find_together(self, user_ids: Sequence[UUID]) -> list[Home | None]:
        async with self._connection() as connection:
            homes = await self._homes(connection, user_ids)
        return [homes.get(user_id) for user_id in user_ids]

    async def _add_together(self, group: Sequence[Placed]) -> list[Home]:
        columns = (
            [placed.user_id for placed in group],
            [placed.cell.name for placed in group],
            [placed.cell.region for placed in group],
            [placed.residency for placed in group],
        )
        async with self._connection() as connection:
            await connection.execute(self._sql["add_users"], *columns)
            homes = await self._homes(connection, columns[0])
        return [homes[placed.user_id] for placed in group]

    async def _mark_open_together(self, homes: Sequence[Home]) -> list[None]:
        async with self._connection() as connection:
            await connection.execute(
                self._sql["mark_open"], [home.user_id for home in homes], [home.epoch for home in homes]
            )
        return [None] * len(homes)

    async def _homes(self, connection: Connection, user_ids: Sequence[UUID]) -> dict[UUID, Home]:
        rows = await connection.fetch(self._sql["users"], list(set(user_ids)))
        return {row["user_id"]: _home(row) for row in rows}

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        try:
            async with self._pool.acquire() as connection:
                yield connection
        except _PASSING as problem:
            log.warning("directory_unavailable", problem=str(problem))
            raise DirectoryUnavailable from problem


def _cell(row: asyncpg.Record) -> Cell:
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
        cell=_cell(row),
        epoch=row["epoch"],
        residency=row["residency"],
        state=UserState(row["user_state"]),
    )
