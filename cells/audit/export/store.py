"""Exports and imports on PostgreSQL."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from cells.audit.export.exporter import ExportHead
from cells.audit.export.restore import RestoreRefused
from cells.audit.proofs.store import SQL, connected
from cells.encoding.codec import recanonical
from cells.moves.user_bundle import MovedEvent
from cells.store.outcomes import NO_OUTCOME, OutcomePlace
from cells.store.ports import EventRow, OutcomeRow, StoreUnavailable
from cells.store.postgres import SQL as STORE_SQL
from cells.store.sessions import Connection, Pool


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


@dataclass(slots=True, kw_only=True)
class PostgresIntake:
    """The steps of an import that only the owner of the database may do. `connect` takes the owner's role."""

    connect: Callable[[], Awaitable[Connection]]
    _connection: "Connection | None" = None

    async def begin(self, cell: str) -> tuple[int, int]:
        self._connection = connection = await self.connect()
        await connection.execute(STORE_SQL["make_head"], cell)
        begun = await connection.fetchrow(SQL["import_begin"], cell)
        if begun is None:
            owner, position = await connection.fetchrow(SQL["import_head"])  # type: ignore[misc]
            raise RestoreRefused(
                f"the database has the log of {owner}, up to position {position}, and the export is of {cell}: "
                "an export is put back into an empty database"
            )
        return begun["epoch"], begun["position"]

    async def last_outcome(self) -> OutcomePlace:
        found = await self._owner().fetchrow(SQL["last_outcome"])
        return OutcomePlace(*found) if found is not None else NO_OUTCOME

    async def keep_partitions(self, moment: datetime) -> None:
        await self._owner().execute(STORE_SQL["keep_outcome_partitions"], moment)

    async def finish(self, *, epoch: int, saga_engine: str) -> None:
        await self._owner().execute(SQL["import_finish"], epoch, saga_engine)

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.terminate()

    def _owner(self) -> Connection:
        if self._connection is None:
            raise RuntimeError("begin first")
        return self._connection
