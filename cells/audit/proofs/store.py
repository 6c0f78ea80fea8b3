"""Tiles, checkpoints, witnessed checkpoints and exports on PostgreSQL, separate from the writer's connection."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from cells.audit.proofs.ports import ExportHead, SignedCheckpoint, Witnessed
from cells.audit.verify.tree import Tile
from cells.encoding.codec import recanonical
from cells.moves.user_bundle import MovedEvent
from cells.sql import queries
from cells.store.failures import passing, raise_as
from cells.store.outcomes import OutcomePlace
from cells.store.ports import EventRow, OutcomeRow, StoreUnavailable
from cells.store.sessions import Connection, Pool, Reading, session_of

SQL = queries("cells.sql", "proof.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresProofs(Reading):
    """Connections must use the cell's role."""

    pool: Pool

    async def last_tile(self, level: int) -> int:
        [(place,)] = await self.fetch(SQL["last_tile"], level)
        return -1 if place is None else int(place)

    async def tile(self, level: int, place: int) -> bytes | None:
        return next((row[0] for row in await self.fetch(SQL["tile"], level, place)), None)

    async def tile_roots(self, level: int, first: int, end: int) -> bytes:
        return b"".join([row[0] for row in await self.fetch(SQL["tile_roots"], level, first, end)])

    async def leaf_hashes(self, first: int, end: int) -> bytes:
        return b"".join([row[0] for row in await self.fetch(SQL["leaf_hashes"], first, end)])

    async def add_tiles(self, tiles: Sequence[Tile]) -> None:
        if tiles:
            await self.execute(SQL["add_tiles"], *zip(*tiles, strict=True))

    async def add_checkpoint(self, checkpoint: SignedCheckpoint) -> None:
        await self.execute(SQL["add_checkpoint"], *checkpoint[:4])

    async def add_cosignature(self, size: int, witness: str, line: str, at: datetime) -> None:
        await self.execute(SQL["add_cosignature"], size, witness, line, at)

    async def checkpoints(self, from_size: int, limit: int) -> list[SignedCheckpoint]:
        return [_checkpoint(row) for row in await self.fetch(SQL["checkpoints"], from_size, limit)]

    async def last_checkpoint(self, size_max: int) -> SignedCheckpoint | None:
        return next(map(_checkpoint, await self.fetch(SQL["last_checkpoint"], size_max)), None)

    async def last_cosigned(self) -> SignedCheckpoint | None:
        return next(map(_checkpoint, await self.fetch(SQL["last_cosigned"])), None)

    async def cosigned_size(self, witness: str) -> int:
        [(size,)] = await self.fetch(SQL["cosigned_size"], witness)
        return int(size)

    async def witnessed(self, origin: str) -> Witnessed | None:
        return next((Witnessed(*row) for row in await self.fetch(SQL["witnessed"], origin)), None)

    async def witness(self, seen: Witnessed, before: Witnessed | None) -> bool:
        if before is None:
            return await self.execute(SQL["witness_first"], *seen) == "INSERT 0 1"
        return await self.execute(SQL["witness_next"], *seen, before.size, before.root) == "UPDATE 1"

    async def export_head(self) -> ExportHead:
        for row in await self.fetch(SQL["export_head"]):
            return ExportHead(*row)
        raise StoreUnavailable("the head row is missing: the database is not prepared")

    async def export_events(self, from_position: int, to_position: int, limit: int) -> list[EventRow]:
        return [_event(row) for row in await self.fetch(SQL["export_events"], from_position, to_position, limit)]

    async def export_moved(self, to_position: int, after: MovedEvent | None, limit: int) -> list[MovedEvent]:
        place = (after.row.aggregate_id, after.cell, after.row.position) if after else (UUID(int=0), "", 0)
        rows = await self.fetch(SQL["export_moved"], *place, limit, to_position)
        return [MovedEvent(row["cell"], _event(tuple(row)[1:])) for row in rows]

    async def export_outcomes(self, position: int, after: OutcomePlace, limit: int) -> list[OutcomeRow]:
        rows = await self.fetch(SQL["export_outcomes"], position, *after, limit)
        return [OutcomeRow(*row)._replace(outcome=recanonical(row["outcome"])) for row in rows]

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection]:
        """Raises StoreUnavailable for transient errors."""
        try:
            async with session_of(self.pool) as connection:
                yield connection
        except asyncpg.UniqueViolationError as error:
            # Two processes lead for a moment: read again what the other one wrote.
            raise StoreUnavailable(f"another process was faster: {error}") from error
        except Exception as error:
            raise_as(passing(error), error)
            raise


def _checkpoint(row: asyncpg.Record) -> SignedCheckpoint:
    return SignedCheckpoint(row["size"], row["root"], row["note"], row["signed_at"], tuple(row["lines"]))


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
