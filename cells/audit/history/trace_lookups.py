"""One cell's log by cause and effect, on PostgreSQL."""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from cells.audit.checks.checked import Checked, checked_records
from cells.sql import queries
from cells.store.ports import OutcomeRow
from cells.store.postgres import PostgresStore

SQL = queries("cells.sql", "trace.sql")


@dataclass(frozen=True, slots=True)
class PostgresTraceLookups:
    store: PostgresStore

    async def subjects(self, subject: UUID, limit: int) -> list[UUID]:
        return await self._ids("trace_subjects", subject, limit)

    async def causes(self, ids: Iterable[UUID], limit: int) -> list[UUID]:
        return await self._ids("trace_causes", list(ids), limit)

    async def effects(self, ids: Iterable[UUID], limit: int) -> list[UUID]:
        return await self._ids("trace_effects", list(ids), limit)

    async def rows(self, ids: Iterable[UUID]) -> list[Checked]:
        async with self.store.reading() as connection:
            rows = await connection.fetch(SQL["trace_events"], list(ids))
        return await checked_records(rows)

    async def outcomes(self, command_id: UUID) -> list[OutcomeRow]:
        return await self.store.outcomes([command_id])

    async def _ids(self, query: str, *arguments: object) -> list[UUID]:
        async with self.store.reading() as connection:
            return [row["event_id"] for row in await connection.fetch(SQL[query], *arguments)]
