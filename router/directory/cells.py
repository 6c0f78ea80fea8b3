"""Cells as settings and operators define them, in the directory: durable, and the same for every router."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import asyncpg
import structlog

from cells.domain.refusals import CommandIdReused
from cells.sql import queries
from router.directory.database import Database
from router.directory.topology import WEIGHT_DEFAULT, Cell, CellState, Topology
from router.directory.users import cell_of
from router.refusals import (
    CellHasUsers,
    CellInOtherRegion,
    CellNotDraining,
    CellRemoved,
    EndpointTaken,
    NoSuchCell,
)
from server.shell.postgres.database import Connection

log = structlog.get_logger()

# The constraint that a user's home refers to its cell by.
HOMES = "users_home"


@dataclass(frozen=True, slots=True, kw_only=True)
class CellEntry:
    """A cell as settings or an operator name it."""

    name: str
    region: str
    endpoints: tuple[str, ...]
    # None: unchanged, or WEIGHT_DEFAULT for a new one.
    weight: int | None = None


class OperatorCommand(NamedTuple):
    """The principal that ordered a change, and the command's id."""

    principal: str
    command_id: UUID
    # SHA-256 of the request.
    fingerprint: bytes


class CellStore:
    """Every method raises DirectoryUnavailable; then it is unknown whether the write took effect: repeat it.

    A `command` that was already executed changes nothing. CommandIdReused: the earlier request was different.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = queries("router.sql", "cells.sql")

    async def stored(self) -> tuple[UUID, Topology]:
        """The directory's id, and its cells."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(self._sql["topology"])
        return rows[0]["directory_id"], _topology(rows)

    async def put(self, entry: CellEntry, *, bring_back: bool, command: OperatorCommand | None = None) -> None:
        """Adds the cell, or sets the endpoints and, if given, the weight of an existing one.

        Raises:
            CellRemoved: an operator has removed it, and `bring_back` is false.
            CellInOtherRegion, EndpointTaken: nothing has changed.
        """
        async with self._changing(command) as connection:
            if connection is None:
                return
            removed = await self._removed(connection, [entry])
            _check_regions([entry], removed)
            if removed and not bring_back:
                raise CellRemoved(cell=entry.name)
            await connection.execute(self._sql["bring_back"], entry.name)
            await self._put(connection, [entry])

    async def adopt(self, entries: Sequence[CellEntry]) -> None:
        """As `put`, for the cells in the settings; those that an operator has removed stay removed.

        Raises:
            CellInOtherRegion, EndpointTaken: nothing has changed.
        """
        if not entries:
            return
        async with self._changing(None) as connection:
            if connection is None:
                return
            removed = await self._removed(connection, entries)
            for name in removed:
                log.warning("cell_of_settings_was_removed", cell=name)
            await self._put(connection, [entry for entry in entries if entry.name not in removed])

    async def _removed(self, connection: Connection, entries: Iterable[CellEntry]) -> dict[str, str]:
        """Those of them that an operator has removed: name -> region."""
        rows = await connection.fetch(self._sql["removed"], [entry.name for entry in entries])
        return {row["name"]: row["region"] for row in rows}

    async def _put(self, connection: Connection, entries: Sequence[CellEntry]) -> None:
        known = _topology(await connection.fetch(self._sql["topology"])).cells
        _check_regions(entries, {cell.name: cell.region for cell in known})
        await self._counted(
            connection,
            "put_cells",
            [entry.name for entry in entries],
            [entry.region for entry in entries],
            ["+".join(entry.endpoints) for entry in entries],
            [entry.weight for entry in entries],
            WEIGHT_DEFAULT,
        )
        _check_endpoints(_topology(await connection.fetch(self._sql["topology"])).cells)

    async def set_weight(self, name: str, weight: int, command: OperatorCommand | None = None) -> None:
        """Raises NoSuchCell."""
        await self._set("set_weight", name, weight, command)

    async def set_state(self, name: str, state: CellState, command: OperatorCommand | None = None) -> None:
        """Once it returns, no router places a user in a cell that is not ACTIVE. Raises NoSuchCell."""
        await self._set("set_state", name, state.value, command)

    async def _set(self, query: str, name: str, value: object, command: OperatorCommand | None) -> None:
        async with self._changing(command) as connection:
            if connection is None:
                return
            if await connection.fetchrow(self._sql["cell"], name) is None:
                raise NoSuchCell(cell=name)
            await self._counted(connection, query, name, value)

    async def remove(self, name: str, command: OperatorCommand | None = None) -> None:
        """Removes the cell for good, whatever settings say later. A cell that does not exist counts as removed.

        Raises CellNotDraining, CellHasUsers.
        """
        async with self._changing(command) as connection:
            if connection is None:
                return
            row = await connection.fetchrow(self._sql["cell"], name)
            if row is not None and row["state"] == CellState.ACTIVE:
                raise CellNotDraining(cell=name)
            await connection.execute(self._sql["keep_removed"], name)
            try:
                await self._counted(connection, "remove", name)
            except asyncpg.ForeignKeyViolationError as error:
                # Checking first would not do: a user may be placed there at this very moment.
                if error.constraint_name != HOMES:
                    raise
                raise CellHasUsers(cell=name) from error

    async def count_users(self) -> dict[str, int]:
        """Cell -> the number of its users."""
        async with self._database.connection() as connection:
            return {row["cell"]: row["users"] for row in await connection.fetch(self._sql["count_users"])}

    async def _is_new(self, connection: Connection, command: OperatorCommand | None) -> bool:
        """Whether the command is new; stores it in the same transaction. Raises CommandIdReused."""
        if command is None or await connection.execute(self._sql["keep_command"], *command) not in _NOTHING_DONE:
            return True
        if await connection.fetchval(self._sql["kept_command"], *command[:2]) != command.fingerprint:
            raise CommandIdReused(command_id=str(command.command_id))
        return False

    @asynccontextmanager
    async def _changing(self, command: OperatorCommand | None) -> "AsyncIterator[Connection | None]":
        """A transaction that changes cells, one after the other; None: the command was executed before."""
        async with self._database.connection() as connection, connection.transaction():
            await connection.execute(self._sql["lock"])
            yield connection if await self._is_new(connection, command) else None

    async def _counted(self, connection: Connection, query: str, *arguments: object) -> None:
        """Raises the topology version if the statement changes anything."""
        if await connection.execute(self._sql[query], *arguments) not in _NOTHING_DONE:
            await connection.execute(self._sql["changed"])
            log.info("cells_changed", command=query)


# The command tags of statements that touched no row.
_NOTHING_DONE = frozenset({"INSERT 0 0", "UPDATE 0", "DELETE 0"})


def _topology(rows: Sequence[asyncpg.Record]) -> Topology:
    cells = [cell_of(row) for row in rows if row["name"] is not None]
    return Topology(cells, version=rows[0]["version"])


def _check_regions(entries: Iterable[CellEntry], known: Mapping[str, str]) -> None:
    """`known`: name -> region."""
    for entry in entries:
        region = known.get(entry.name, entry.region)
        if region != entry.region:
            raise CellInOtherRegion(cell=entry.name, known=region, region=entry.region)


def _check_endpoints(cells: Iterable[Cell]) -> None:
    """No two cells may share an address: users of one would be sent to the other."""
    owners: dict[str, str] = {}
    for cell in cells:
        for endpoint in cell.endpoints:
            if owners.setdefault(endpoint, cell.name) != cell.name:
                raise EndpointTaken(endpoint=endpoint, cell=owners[endpoint])
