"""What users who move bring along, on PostgreSQL: copies of their history, and what became of their commands."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

import asyncpg

from cells.baggage import MovedEvent, MovedPlace
from cells.outcomes import OutcomePlace, outcome_place
from cells.ports import EventRow, OutcomeRow
from cells.sql import queries
from cells.store_rows import event_of

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from asyncpg.pool import PoolConnectionProxy

# Quoted: generic for the type checker only.
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

SQL = queries("cells.sql", "moves.sql")


class MovesInPostgres:
    """The part of the store that is about them. None of it goes through the writer: it is known elsewhere already."""

    def reading(self) -> "AbstractAsyncContextManager[Connection]":
        raise NotImplementedError

    async def moved_events(
        self, user_id: UUID, *, event_types: Sequence[str] = (), after: MovedPlace | None = None, limit: int
    ) -> list[MovedEvent]:
        async with self.reading() as connection:
            rows = await connection.fetch(SQL["moved"], user_id, event_types, *(after or ("", 0)), limit)
        return [MovedEvent(row["cell"], event_of(_event(row))) for row in rows]

    async def moved_counts(self, user_id: UUID) -> dict[str, int]:
        async with self.reading() as connection:
            rows = await connection.fetch(SQL["counts"], user_id)
        return {row["cell"]: row["events"] for row in rows}

    async def outcomes_of(self, user_id: UUID, *, after: OutcomePlace | None, limit: int) -> list[OutcomeRow]:
        async with self.reading() as connection:
            rows = await connection.fetch(SQL["outcomes_of"], user_id, *(after or (None, None)), limit)
        return [OutcomeRow(*row) for row in rows]

    async def stow(self, user_id: UUID, events: Sequence[MovedEvent], outcomes: Sequence[OutcomeRow]) -> None:
        async with self.reading() as connection, connection.transaction():
            # Twins of one call, side by side, take what they bring in one after the other.
            await connection.execute(SQL["lock"], str(user_id))
            await connection.executemany(SQL["stow_event"], [(event.cell, *event.row) for event in events])
            rows = [(*outcome_place(row), *row[1:6], user_id, row.cell) for row in outcomes]
            await connection.executemany(SQL["stow_outcome"], rows)


def _event(row: asyncpg.Record) -> EventRow:
    return EventRow(*(row[name] for name in EventRow._fields))
