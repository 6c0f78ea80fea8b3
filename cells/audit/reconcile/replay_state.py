"""Stored by passes in the cell's database: the replay state that the next one resumes from, and the quarantine.

The replay state is the states of all aggregates and the house's balances, at a position of the log.
"""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from cells.audit.reconcile.fold import Fold, ReplayedState, StoredEvent
from cells.domain.values import Kind, Ref
from cells.encoding import codec
from cells.encoding.derived import state_columns
from cells.sql import queries
from cells.store.ports import StoreUnavailable, Versioned
from cells.store.postgres import PostgresStore
from cells.store.sessions import Connection

SQL = queries("cells.sql", "reconcile.sql")
# More states than this are written to the tables and dropped from memory.
STATES_MAX = 200_000


async def replay_seal(connection: Connection, key: bytes) -> bytes:
    """HMAC-SHA-256 over everything in the replay's tables."""
    return hmac.digest(key, await connection.fetchval(SQL["replay_digest"]) or b"", "sha256")


@dataclass(slots=True, kw_only=True)
class ReplayState:
    connection: Connection
    fold: Fold
    # The key of the seal. Empty: the stored state is trusted without a seal.
    key: bytes = b""
    # The stored state is not the one that the last pass left.
    tampered: bool = False
    # The position of the last event that was applied.
    position: int = 0
    # Whether all states are in memory.
    _complete: bool = False
    _halts_kept: set[UUID] = field(default_factory=set)

    async def open(self, *, full: bool) -> None:
        """Resumes where the last pass ended, or begins at the first event if `full`."""
        await self.connection.execute(SQL["summarize"])
        if full or not await self._is_own():
            await self.connection.execute(SQL["start_over"])
        self.position = await self.connection.fetchval(SQL["reconciled"]) or 0
        self._complete = self.position == 0
        self.fold.halted.update({row["id"]: row["problem"] for row in await self.connection.fetch(SQL["halts"])})
        self._halts_kept.update(self.fold.halted)

    async def _is_own(self) -> bool:
        """Whether the stored state is the one that a pass left. If the seal is missing, a pass was interrupted."""
        if not self.key:
            return True
        seal: bytes | None = await self.connection.fetchval(SQL["replay_seal"])
        if seal is None:
            return False
        self.tampered = seal != await replay_seal(self.connection, self.key)
        return not self.tampered

    async def seal(self) -> None:
        """Seals the state at the end of a pass, in the open transaction."""
        if self.key:
            seal = await replay_seal(self.connection, self.key)
            await self.connection.execute(SQL["put_replay_seal"], seal)

    @property
    def is_large(self) -> bool:
        return len(self.fold.states) > STATES_MAX

    async def load(self, events: Sequence[StoredEvent]) -> None:
        """Loads the states that the events continue from."""
        if self._complete:
            return
        fold = self.fold
        wanted = {event.aggregate_id for event in events} - fold.states.keys() - fold.halted.keys()
        for row in await self.connection.fetch(SQL["states"], list(wanted)):
            kind = Kind(row["kind"])
            state = codec.decode_state(kind, row["state"])
            fold.states[row["id"]] = ReplayedState(kind, state, row["stream_version"])

    async def flush(self) -> None:
        """Stores the changed states and the position, both in the open transaction."""
        fold = self.fold
        ids = sorted(fold.touched)
        states = [fold.states[each] for each in ids]
        await self.connection.execute(
            SQL["put_states"],
            ids,
            [each.kind for each in states],
            [each.stream_version for each in states],
            [codec.encode_state(each.state) for each in states],
            [codec.canonical(state_columns(each.state)) for each in states],
        )
        if fold.house:
            moved = [(account, currency, by) for (account, currency), by in sorted(fold.house.items())]
            await self.connection.execute(SQL["put_house"], *zip(*moved, strict=True))
        fresh = fold.halted.keys() - self._halts_kept
        if fresh:
            await self.connection.execute(SQL["put_halts"], list(fresh), [fold.halted[each] for each in fresh])
            await self.connection.execute(SQL["drop_states"], list(fresh))
        await self.connection.execute(SQL["moved"], self.position)
        self._forget(fresh)

    def _forget(self, fresh: set[UUID]) -> None:
        self._halts_kept |= fresh
        self.fold.touched.clear()
        self.fold.house.clear()
        if self.is_large:
            self.fold.states.clear()
            self._complete = False


@dataclass(frozen=True, slots=True)
class AuditStateStore:
    store: PostgresStore
    # The key that seals the replay state between passes; empty: no seal.
    replay_key: bytes = b""

    async def load(self) -> dict[Ref, str]:
        """The aggregates whose rows are known to be wrong. Raises StoreError."""
        rows = await self.store.fetch(SQL["quarantine"])
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
