"""Moves of users in the directory's database, by caller and command id, each with its answer once there is one."""

from typing import NamedTuple
from uuid import UUID, uuid5

import asyncpg

from cells.sql import queries
from router.directory.database import Database


class MoveRequest(NamedTuple):
    """A move that a caller asks for. `region`: the residency from then on; None: unchanged."""

    user_id: UUID
    to_cell: str
    region: str | None
    principal: str
    command_id: UUID


class Move(NamedTuple):
    """A move as the directory stores it. `from_cell` is empty if it was refused before any cell was asked."""

    request: MoveRequest
    from_cell: str
    from_epoch: int
    residency: str
    done: bool = False
    # The google.rpc.Status of its refusal; empty: not refused.
    refusal: bytes = b""

    @property
    def begin_id(self) -> UUID:
        """The id of the router's command to the user's home: two callers may use one id, so it covers both."""
        return uuid5(self.request.command_id, self.request.principal)

    @property
    def saga_id(self) -> UUID:
        """The saga's id in the user's home."""
        return uuid5(self.request.user_id, f"move/{self.from_epoch}/{self.begin_id}")


class MoveStore:
    """Raises DirectoryUnavailable from every method."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = queries("router.sql", "moves.sql")

    async def find(self, principal: str, command_id: UUID) -> Move | None:
        """The move that this caller asked for under this id."""
        async with self._database.connection() as connection:
            return _move(await connection.fetchrow(self._sql["move"], principal, command_id))

    async def last_of(self, user_id: UUID) -> Move | None:
        """The user's last move of which a cell was asked."""
        async with self._database.connection() as connection:
            return _move(await connection.fetchrow(self._sql["last_move"], user_id))

    async def add(self, move: Move) -> Move:
        """The move stored under its id: this one, or an earlier one."""
        asked = move.request
        values = (asked.user_id, asked.to_cell, asked.region, move.from_cell or None, move.from_epoch or None)
        answer = (move.residency, asked.principal, asked.command_id, move.done, move.refusal or None)
        async with self._database.connection() as connection:
            await connection.execute(self._sql["add_move"], *values, *answer)
        return await self.find(asked.principal, asked.command_id) or move

    async def redirect(self, move: Move) -> None:
        """The move shall begin at the home that `move` names now."""
        asked = move.request
        async with self._database.connection() as connection:
            await connection.execute(
                self._sql["redirect_move"], asked.principal, asked.command_id, move.from_cell, move.from_epoch
            )

    async def answer(self, move: Move) -> None:
        """Stores the answer in `move`, unless there is one."""
        asked = move.request
        async with self._database.connection() as connection:
            await connection.execute(
                self._sql["answer_move"], asked.principal, asked.command_id, move.done, move.refusal or None
            )


def _move(row: asyncpg.Record | None) -> Move | None:
    if row is None:
        return None
    request = MoveRequest(row["user_id"], row["to_cell"], row["region"], row["principal"], row["command_id"])
    return Move(
        request,
        from_cell=row["from_cell"] or "",
        from_epoch=row["from_epoch"] or 0,
        residency=row["residency"] or "",
        done=row["done"],
        refusal=row["refusal"] or b"",
    )
