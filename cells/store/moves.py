"""Data of moving users on PostgreSQL: copies of their history, and outcomes of their commands."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from uuid import UUID

import asyncpg

from cells.encoding.outcome_seal import OutcomeSeal
from cells.moves.marks import mark_of
from cells.moves.user_bundle import HistoryCopy, MovedEvent, MovedPlace, require_no_gap
from cells.sql import queries
from cells.store.outcomes import OutcomePlace, outcome_place
from cells.store.ports import EventRow, OutcomeRow
from cells.store.rows import event_of
from cells.store.sessions import Connection, Reading

SQL = queries("cells.sql", "moves.sql")


class MovesInPostgres(Reading):
    """The store's part for moves. It does not use the writer, because the data is already in another log."""

    outcome_seal: OutcomeSeal | None

    async def moved_events(self, user_id: UUID, *, after: MovedPlace | None = None, limit: int) -> list[MovedEvent]:
        rows = await self.fetch(SQL["moved"], user_id, *(after or ("", 0)), limit)
        return [MovedEvent(row["cell"], event_of(_event(row))) for row in rows]

    async def held(self, user_id: UUID) -> dict[str, int]:
        async with self.reading() as connection:
            return await _held(connection, user_id)

    async def copies(self, user_id: UUID) -> dict[str, HistoryCopy]:
        rows = await self.fetch(SQL["copies"], user_id)
        return {row["cell"]: HistoryCopy(row["held"], row["chain"], row["marked"]) for row in rows}

    async def moved_stream(self, user_id: UUID, cell: str, *, after_version: int, limit: int) -> list[MovedEvent]:
        rows = await self.fetch(SQL["moved_stream"], user_id, cell, after_version, limit)
        return [MovedEvent(row["cell"], event_of(_event(row))) for row in rows]

    async def stream(self, user_id: UUID, *, after_version: int, limit: int) -> list[EventRow]:
        rows = await self.fetch(SQL["stream"], user_id, after_version, limit)
        return [event_of(row) for row in rows]

    async def outcomes_of(
        self, user_id: UUID, *, after: OutcomePlace | None, limit: int, since: datetime | None = None
    ) -> list[OutcomeRow]:
        async with self.reading() as connection:
            place = (user_id, *(after or (None, None)), limit)
            if since is None:
                rows = await connection.fetch(SQL["outcomes_of"], *place)
            else:
                rows = await connection.fetch(SQL["outcomes_since"], *place, since)
        return [OutcomeRow(*row) for row in rows]

    async def stage(self, user_id: UUID, events: Sequence[MovedEvent], outcomes: Sequence[OutcomeRow]) -> None:
        copied = [(event.cell, *event.row, *mark_of(event.row)) for event in events]
        async with self._of_user(user_id) as connection:
            await connection.execute(SQL["touch"], user_id)
            if events:
                require_no_gap(user_id, await _held(connection, user_id), events)
            await connection.executemany(SQL["stow_event"], copied)
            await keep_brought(connection, [row._replace(user_id=user_id) for row in outcomes], self.outcome_seal)

    async def expect(self, user_id: UUID) -> None:
        async with self._of_user(user_id) as connection:
            await connection.execute(SQL["touch"], user_id)

    async def settle(self, user_id: UUID) -> None:
        await self.execute(SQL["settle"], user_id)

    async def give_up(self, user_id: UUID) -> None:
        await self.execute(SQL["give_up"], user_id)

    async def stale(self, *, idle_s: float, limit: int) -> list[UUID]:
        rows = await self.fetch(SQL["stale"], idle_s, limit)
        return [row["user_id"] for row in rows]

    async def drop_staged(self, user_id: UUID, *, idle_s: float, at_most: int) -> bool:
        async with self._of_user(user_id) as connection:
            dropped = await connection.fetchval(SQL["drop_staged"], user_id, idle_s, at_most)
            if dropped is not None and dropped < at_most:
                await connection.execute(SQL["settle"], user_id)
        return bool(dropped == at_most)

    @asynccontextmanager
    async def _of_user(self, user_id: UUID) -> AsyncIterator[Connection]:
        """A transaction with exclusive access to the user's copied data, so duplicates of a call run in sequence."""
        async with self.reading() as connection, connection.transaction():
            await connection.execute(SQL["lock"], str(user_id))
            yield connection


async def keep_brought(connection: Connection, rows: Sequence[OutcomeRow], seal: OutcomeSeal | None) -> None:
    """Stores outcomes of commands that were sent to other cells, if they are unknown here."""
    await connection.executemany(
        SQL["stow_outcome"],
        [
            (*outcome_place(row), *row[1:6], row.user_id, row.cell, None if seal is None else seal.of_brought(row))
            for row in rows
        ],
    )


async def _held(connection: Connection, user_id: UUID) -> dict[str, int]:
    return {row["cell"]: row["held"] for row in await connection.fetch(SQL["held"], user_id)}


def _event(row: asyncpg.Record) -> EventRow:
    return EventRow(*(row[name] for name in EventRow._fields))
