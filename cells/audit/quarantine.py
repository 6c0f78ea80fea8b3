"""Aggregates whose rows are known to be wrong, as the database keeps it: the next leader knows them, too."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from cells.audit.shadow import SQL
from cells.domain.values import Kind, Ref

if TYPE_CHECKING:
    import asyncpg

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"


@dataclass(frozen=True, slots=True)
class Quarantine:
    pool: Pool

    async def load(self) -> dict[Ref, str]:
        rows = await self.pool.fetch(SQL["quarantine"])
        return {Ref(Kind(row["kind"]), row["id"]): row["problem"] for row in rows}

    async def keep(self, held: Mapping[Ref, str]) -> None:
        """These, and no others."""
        kinds, ids = [ref.kind.value for ref in held], [ref.id for ref in held]
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.execute(SQL["keep_quarantine"], kinds, ids)
            await connection.execute(SQL["put_quarantine"], kinds, ids, list(held.values()))
