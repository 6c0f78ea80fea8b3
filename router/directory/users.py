"""The users' homes, in the router's own PostgreSQL. An answer is durable when it is given."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypeVar
from uuid import UUID

import asyncpg

from cells.domain.moves.home import EPOCHS_FORGOTTEN_MAX, Home
from cells.sql import queries
from router.directory.database import Database
from router.directory.topology import Cell, CellState
from router.refusals import DirectoryBusy, NotInRegion
from server.shell.coalescer import Coalescer
from server.shell.postgres.database import Connection

GROUP_MAX = 256

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class UserState(StrEnum):
    # The user has a home; its account is not known to be open.
    OPENING = "OPENING"
    OPEN = "OPEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class UserEntry:
    """A user's home, as the directory has it."""

    user_id: UUID
    cell: Cell
    # Rises with every move of the user.
    epoch: int
    # The region that the user's data must not leave; empty: any region.
    residency: str
    state: UserState
    # The residency at registration; a move may have changed it since.
    registered_residency: str = ""


class CopiedHome(NamedTuple):
    """The part of an entry that a router's copy has."""

    user_id: UUID
    cell: str
    epoch: int
    residency: str


# A new user, the proposed home, and the region that the user's data must not leave.
NewUser = tuple[UUID, Cell, str]


class Directory:
    """Users and their homes. Concurrent lookups and registrations share statements and commits.

    Raises:
        DirectoryUnavailable, DirectoryBusy: from every method; then it is unknown whether a write took effect.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = queries("router.sql", "directory.sql")
        self._find = _shared(self._find_together)
        self._add = _shared(self._add_together)
        self._mark_open = _shared(self._mark_open_together)

    async def find(self, user_id: UUID) -> UserEntry | None:
        return await self._find.ask(user_id)

    async def add(self, user_id: UUID, cell: Cell, residency: str) -> UserEntry | None:
        """The user's home: the proposed one, or the one that the user already has.

        None: the proposed cell accepts no new users any more.
        """
        return await self._add.ask((user_id, cell, residency))

    async def mark_open(self, entry: UserEntry) -> None:
        """Records that the home cell has opened the account of this epoch."""
        await self._mark_open.ask(entry)

    async def adopt(self, user_id: UUID, home: Home, residency: str | None, *, by: str) -> bool:
        """Records a home reported by the cell `by`, which is the user's home until then.

        False if it is not, or if the epoch is not one that may come next.

        Raises NotInRegion: the user is bound to another region, which a cell's report does not override.
        """
        return await self._rehome("adopt", user_id, home, residency, by, EPOCHS_FORGOTTEN_MAX)

    async def put_home(self, user_id: UUID, home: Home, residency: str | None) -> None:
        """Records a home by an operator's order; the highest epoch stays. Raises NotInRegion."""
        await self._rehome("put_home", user_id, home, residency)

    async def _rehome(self, query: str, user_id: UUID, home: Home, residency: str | None, *more: object) -> bool:
        try:
            async with self._database.connection() as connection:
                tag = await connection.execute(self._sql[query], user_id, *home, residency, *more)
        except asyncpg.CheckViolationError:
            raise NotInRegion(user_id=str(user_id), cell=home.cell, residency=residency or "as it was") from None
        return bool(tag != "UPDATE 0")

    async def users_of(self, cell: str, after: UUID, limit: int) -> Sequence[UUID]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(self._sql["users_of_cell"], cell, after, limit)
        return [row["user_id"] for row in rows]

    async def count_of(self, cell: str) -> int:
        async with self._database.connection() as connection:
            count: int = await connection.fetchval(self._sql["count_users_of_cell"], cell)
        return count

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

    async def _find_together(self, user_ids: Sequence[UUID]) -> list[UserEntry | None]:
        async with self._database.connection() as connection:
            homes = await self._homes(connection, user_ids)
        return [homes.get(user_id) for user_id in user_ids]

    async def _add_together(self, group: Sequence[NewUser]) -> list[UserEntry | None]:
        user_ids = [user_id for user_id, _, _ in group]
        cells = [(cell.name, cell.region, residency) for _, cell, residency in group]
        async with self._database.connection() as connection:
            await connection.execute(self._sql["add_users"], user_ids, *map(list, zip(*cells, strict=True)))
            homes = await self._homes(connection, user_ids)
        return [homes.get(user_id) for user_id in user_ids]

    async def _mark_open_together(self, entries: Sequence[UserEntry]) -> list[None]:
        user_ids, epochs = [entry.user_id for entry in entries], [entry.epoch for entry in entries]
        async with self._database.connection() as connection:
            await connection.execute(self._sql["mark_open"], user_ids, epochs)
        return [None] * len(entries)

    async def _homes(self, connection: Connection, user_ids: Sequence[UUID]) -> dict[UUID, UserEntry]:
        rows = await connection.fetch(self._sql["users"], list(set(user_ids)))
        return {row["user_id"]: _entry(row) for row in rows}


def _shared(together: Callable[[Sequence[Asked]], Awaitable[Sequence[Answer]]]) -> Coalescer[Asked, Answer]:
    """One statement at a time, for all that have asked meanwhile."""
    return Coalescer(
        send=together, busy=lambda waiting: DirectoryBusy(waiting=waiting), items_max=GROUP_MAX, calls_max=1
    )


def cell_of(row: asyncpg.Record) -> Cell:
    return Cell(
        name=row["name"],
        region=row["region"],
        endpoints=tuple(row["endpoints"]),
        weight=row["weight"],
        state=CellState(row["state"]),
    )


def _entry(row: asyncpg.Record) -> UserEntry:
    return UserEntry(
        user_id=row["user_id"],
        cell=cell_of(row),
        epoch=row["epoch"],
        residency=row["residency"],
        state=UserState(row["user_state"]),
        registered_residency=row["registered_residency"],
    )
