"""One cell's log by cause and effect, on PostgreSQL and, for tests, in memory."""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from cells.audit.checks.checked import Checked, checked, checked_records
from cells.sql import queries
from cells.store.memory import MemoryStore
from cells.store.ports import EventRow, OutcomeRow
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


@dataclass(frozen=True, slots=True)
class MemoryTraceLookups:
    store: MemoryStore

    async def subjects(self, subject: UUID, limit: int) -> list[UUID]:
        began = f'"command_id":"{subject}"'
        sagas = {row.aggregate_id for row in self.store.log if row.stream_version == 1 and began in row.payload}

        def wanted(row: EventRow) -> bool:
            by_command = began in row.metadata or row.correlation_id in sagas
            return subject in {row.event_id, row.correlation_id, row.aggregate_id} or by_command

        return [row.event_id for row in self.store.log if wanted(row)][:limit]

    async def causes(self, ids: Iterable[UUID], limit: int) -> list[UUID]:
        known = {row.event_id: row for row in self.store.log}
        found: dict[UUID, None] = {}
        waiting = [event_id for event_id in ids if event_id in known]
        while waiting:
            event_id = waiting.pop()
            if event_id in known and event_id not in found:
                found[event_id] = None
                cause = known[event_id].causation_id
                waiting += [cause] if cause is not None else []
        return list(found)[:limit]

    async def effects(self, ids: Iterable[UUID], limit: int) -> list[UUID]:
        causes, found = set(ids), dict[UUID, None]()
        # In one log, an effect is always after its cause.
        for row in self.store.log:
            if row.causation_id in causes:
                causes.add(row.event_id)
                found[row.event_id] = None
        return list(found)[:limit]

    async def outcomes(self, command_id: UUID) -> list[OutcomeRow]:
        return await self.store.outcomes([command_id])

    async def rows(self, ids: Iterable[UUID]) -> list[Checked]:
        wanted = set(ids)
        return [checked(row) for row in self.store.log if row.event_id in wanted]
