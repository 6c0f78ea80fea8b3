"""The state that an audit stores in the cell's database for the next pass and the next leader."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from cells.audit.reconcile.replay_state import SQL, replay_seal
from cells.domain.values import Kind, Ref
from cells.encoding import codec
from cells.store.ports import StoreUnavailable, Versioned
from cells.store.postgres import PostgresStore


@dataclass(frozen=True, slots=True)
class AuditStateStore:
    store: PostgresStore
    # The key that seals the replay state between passes; empty: no seal.
    replay_key: bytes = b""

    async def load(self) -> dict[Ref, str]:
        """The aggregates whose rows are known to be wrong. Raises StoreError."""
        async with self.store.reading() as connection:
            rows = await connection.fetch(SQL["quarantine"])
        return {Ref(Kind(row["kind"]), row["id"]): row["problem"] for row in rows}

    async def keep(self, held: Mapping[Ref, str]) -> None:
        """Stores exactly these. Raises StoreError."""
        kinds, ids = [ref.kind.value for ref in held], [ref.id for ref in held]
        async with self.store.reading() as connection, connection.transaction():
            await connection.execute(SQL["keep_quarantine"], kinds, ids)
            await connection.execute(SQL["put_quarantine"], kinds, ids, list(held.values()))

    async def states(self, ids: Sequence[UUID]) -> dict[Ref, Versioned]:
        """The states as the last pass replayed them. Raises StoreError."""
        async with self.store.reading() as connection, connection.transaction(isolation="repeatable_read"):
            if self.replay_key:
                seal = await replay_seal(connection, self.replay_key)
                if seal != await connection.fetchval(SQL["replay_seal"]):
                    raise StoreUnavailable("the replay was changed since the pass that has left it")
            rows = await connection.fetch(SQL["states"], list(ids))
        return {
            Ref(Kind(row["kind"]), row["id"]): Versioned(
                codec.decode_state(Kind(row["kind"]), row["state"]), row["stream_version"]
            )
            for row in rows
        }
