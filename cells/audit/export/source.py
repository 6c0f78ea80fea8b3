"""The source of exports on PostgreSQL."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from cells.audit.export.exporter import ExportHead
from cells.audit.proofs.store import SQL, connected
from cells.encoding.codec import recanonical
from cells.moves.user_bundle import MovedEvent
from cells.store.outcomes import OutcomePlace
from cells.store.ports import EventRow, OutcomeRow, StoreUnavailable
from cells.store.sessions import Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresExport:
    """Connections must use the cell's role."""

    pool: Pool

    async def export_head(self) -> ExportHead:
        async with connected(self.pool) as connection:
            row = await connection.fetchrow(SQL["export_head"])
        if row is None:
            raise StoreUnavailable("the head row is missing: the database is not prepared")
        return ExportHead(*row)

    async def export_events(self, from_position: int, to_position: int, limit: int) -> list[EventRow]:
        async with connected(self.pool) as connection:
            rows = await connection.fetch(SQL["export_events"], from_position, to_position, limit)
        return [_event(row) for row in rows]

    async def export_moved(self, to_position: int, after: MovedEvent | None, limit: int) -> list[MovedEvent]:
        place = (after.row.aggregate_id, after.cell, after.row.position) if after else (UUID(int=0), "", 0)
        async with connected(self.pool) as connection:
            rows = await connection.fetch(SQL["export_moved"], *place, limit, to_position)
        return [MovedEvent(row["cell"], _event(tuple(row)[1:])) for row in rows]

    async def export_outcomes(self, position: int, after: OutcomePlace, limit: int) -> list[OutcomeRow]:
        async with connected(self.pool) as connection:
            rows = await connection.fetch(SQL["export_outcomes"], position, *after, limit)
        return [OutcomeRow(*row)._replace(outcome=recanonical(row["outcome"])) for row in rows]


def _event(row: Iterable[Any]) -> EventRow:
    event = EventRow(*row)
    return event._replace(
        vector_clock=_text(event.vector_clock), payload=_text(event.payload), metadata=_text(event.metadata)
    )


def _text(stored: str) -> str:
    try:
        return recanonical(stored)
    except ValueError:
        # No cell wrote this row. Export it unchanged, so that the verifier sees it.
        return stored
