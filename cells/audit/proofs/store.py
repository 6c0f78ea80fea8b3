"""Tiles, checkpoints and witnessed checkpoints on PostgreSQL, separate from the writer's connection."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from cells.audit.proofs.ports import SignedCheckpoint, Witnessed
from cells.audit.verify.tree import Tile
from cells.sql import queries
from cells.store.failures import passing
from cells.store.ports import StoreUnavailable
from cells.store.sessions import Connection, Pool, session_of

SQL = queries("cells.sql", "proof.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresProofs:
    """Connections must use the cell's role."""

    pool: Pool

    async def last_tile(self, level: int) -> int:
        async with connected(self.pool) as connection:
            place = await connection.fetchval(SQL["last_tile"], level)
        return -1 if place is None else int(place)

    async def tile(self, level: int, place: int) -> bytes | None:
        async with connected(self.pool) as connection:
            hashes: bytes | None = await connection.fetchval(SQL["tile"], level, place)
        return hashes

    async def tile_roots(self, level: int, first: int, end: int) -> bytes:
        async with connected(self.pool) as connection:
            return b"".join([row[0] for row in await connection.fetch(SQL["tile_roots"], level, first, end)])

    async def leaf_hashes(self, first: int, end: int) -> bytes:
        async with connected(self.pool) as connection:
            return b"".join([row[0] for row in await connection.fetch(SQL["leaf_hashes"], first, end)])

    async def add_tiles(self, tiles: Sequence[Tile]) -> None:
        if tiles:
            async with connected(self.pool) as connection:
                await connection.execute(SQL["add_tiles"], *zip(*tiles, strict=True))

    async def add_checkpoint(self, checkpoint: SignedCheckpoint) -> None:
        async with connected(self.pool) as connection:
            await connection.execute(SQL["add_checkpoint"], *checkpoint[:4])

    async def add_cosignature(self, size: int, witness: str, line: str, at: datetime) -> None:
        async with connected(self.pool) as connection:
            await connection.execute(SQL["add_cosignature"], size, witness, line, at)

    async def checkpoints(self, from_size: int, limit: int) -> list[SignedCheckpoint]:
        async with connected(self.pool) as connection:
            rows = await connection.fetch(SQL["checkpoints"], from_size, limit)
        return [_checkpoint(row) for row in rows]

    async def last_checkpoint(self, size_max: int) -> SignedCheckpoint | None:
        async with connected(self.pool) as connection:
            row = await connection.fetchrow(SQL["last_checkpoint"], size_max)
        return None if row is None else _checkpoint(row)

    async def last_cosigned(self) -> SignedCheckpoint | None:
        async with connected(self.pool) as connection:
            row = await connection.fetchrow(SQL["last_cosigned"])
        return None if row is None else _checkpoint(row)

    async def cosigned_size(self, witness: str) -> int:
        async with connected(self.pool) as connection:
            return int(await connection.fetchval(SQL["cosigned_size"], witness))

    async def witnessed(self, origin: str) -> Witnessed | None:
        async with connected(self.pool) as connection:
            row = await connection.fetchrow(SQL["witnessed"], origin)
        return None if row is None else Witnessed(*row)

    async def witness(self, seen: Witnessed, before: Witnessed | None) -> bool:
        async with connected(self.pool) as connection:
            if before is None:
                told = await connection.execute(SQL["witness_first"], *seen)
                return bool(told == "INSERT 0 1")
            told = await connection.execute(SQL["witness_next"], *seen, before.size, before.root)
            return bool(told == "UPDATE 1")


@asynccontextmanager
async def connected(pool: Pool) -> AsyncIterator[Connection]:
    """Raises StoreUnavailable for transient errors."""
    try:
        async with session_of(pool) as connection:
            yield connection
    except asyncpg.UniqueViolationError as error:
        # Two processes lead for a moment: read again what the other one wrote.
        raise StoreUnavailable(f"another process was faster: {error}") from error
    except Exception as error:
        meaning = passing(error)
        if meaning is not None:
            raise meaning from error
        raise


def _checkpoint(row: asyncpg.Record) -> SignedCheckpoint:
    return SignedCheckpoint(row["size"], row["root"], row["note"], row["signed_at"], tuple(row["lines"]))
