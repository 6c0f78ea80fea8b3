"""One cell's past, and its log by cause and effect, on PostgreSQL."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from cells.audit.checks.checked import Checked, checked_records
from cells.audit.history.ports import Buckets, HomedUser
from cells.audit.history.snapshots import HouseSnapshot, Snapshot
from cells.domain.time.hlc import Stamp
from cells.domain.values import Kind
from cells.sql import queries
from cells.store.ports import AccountEntryRow, OutcomeRow
from cells.store.postgres import PostgresStore
from cells.store.sessions import SCAN_TIMEOUT_S

SQL = queries("cells.sql", "history.sql")
TRACE_SQL = queries("cells.sql", "trace.sql")


@dataclass(frozen=True, slots=True)
class PostgresHistoryLookups:
    store: PostgresStore

    async def position_at(self, stamp: Stamp, head: int) -> tuple[int, int | None]:
        row = await self.store.fetch_row(SQL["point_at"], stamp.physical_ms, stamp.logical, head)
        return (row["position"], row["gap"]) if row is not None else (0, None)

    async def rows_at(self, positions: Sequence[int]) -> list[Checked]:
        rows = await self.store.fetch(SQL["events_at"], positions)
        return await checked_records(rows)

    async def stream_begins(self, aggregate_id: UUID) -> int | None:
        rows = await self.store.fetch(SQL["stream_begins"], aggregate_id)
        return rows[0][0] if rows else None

    async def stream_from(
        self, aggregate_id: UUID, *, version: int, until: int, limit: int
    ) -> tuple[list[Checked], bool]:
        rows = await self.store.fetch(SQL["stream_from"], aggregate_id, version, limit)
        # Verify only the wanted rows: verifying takes longer than reading.
        wanted = await checked_records([row for row in rows if row["position"] <= until])
        return wanted, len(wanted) == limit

    async def snapshot_at(self, aggregate_id: UUID, position: int) -> Snapshot | None:
        row = await self.store.fetch_row(SQL["snapshot_at"], aggregate_id, position)
        return _snapshot(aggregate_id, row) if row is not None else None

    async def snapshots_of(self, aggregate_id: UUID) -> list[Snapshot]:
        return [_snapshot(aggregate_id, row) for row in await self.store.fetch(SQL["snapshots_of"], aggregate_id)]

    async def balances_at(
        self, account_id: UUID, position: int
    ) -> list[tuple[AccountEntryRow, AccountEntryRow | None]]:
        rows = await self.store.fetch(SQL["account_balances_at"], account_id, position)
        found: dict[str, list[AccountEntryRow]] = {}
        for row in rows:
            found.setdefault(row["currency"], []).append(AccountEntryRow(*row))
        return [(entries[0], entries[1] if len(entries) > 1 else None) for entries in found.values()]

    async def all_balances_at(
        self, after: tuple[UUID, str], position: int, limit: int
    ) -> list[tuple[UUID, str, AccountEntryRow | None]]:
        rows = await self.store.fetch(SQL["all_balances_at"], *after, position, limit)
        return [
            (row["account_id"], row["currency"], AccountEntryRow(*row) if row["position"] is not None else None)
            for row in rows
        ]

    async def homes(self, after: UUID, limit: int) -> list[HomedUser]:
        return [HomedUser(*row) for row in await self.store.fetch(SQL["homes"], after, limit)]

    # --- statements -------------------------------------------------------------------------------------------------

    async def movements(
        self, account_id: UUID, currency: str, after: int, until: int, limit: int
    ) -> list[AccountEntryRow]:
        rows = await self.store.fetch(SQL["movements"], account_id, currency, after, until, limit)
        return [AccountEntryRow(*row) for row in rows]

    async def entry_at(self, account_id: UUID, currency: str, position: int) -> AccountEntryRow | None:
        row = await self.store.fetch_row(SQL["entry_at"], account_id, currency, position)
        return AccountEntryRow(*row) if row is not None else None

    async def movements_sum(self, account_id: UUID, currency: str, after: int, until: int) -> tuple[int, Buckets]:
        row = await self.store.fetch_row(
            SQL["movements_sum"], account_id, currency, after, until, timeout_s=SCAN_TIMEOUT_S
        )
        if row is None:
            return 0, (0, 0, 0)
        return row["movements"], (int(row["available"]), int(row["reserved"]), int(row["pending"]))

    async def types_of(self, event_ids: Sequence[UUID]) -> dict[UUID, str]:
        rows = await self.store.fetch(SQL["types_of"], event_ids)
        return {row["event_id"]: row["event_type"] for row in rows}

    # --- snapshots --------------------------------------------------------------------------------------------------

    async def progress(self) -> int:
        """The position up to which all snapshots are made."""
        [(position,)] = await self.store.fetch(SQL["snapshot_progress"])
        return int(position)

    async def set_progress(self, position: int) -> None:
        await self.store.execute(SQL["set_snapshot_progress"], position)

    async def due(self, after: int, until: int, every: int) -> list[tuple[UUID, int, int]]:
        """(stream, version, position) of each event whose version is a multiple of `every`, by position."""
        rows = await self.store.fetch(SQL["snapshots_due"], after, until, every, timeout_s=SCAN_TIMEOUT_S)
        return [(row["aggregate_id"], row["stream_version"], row["position"]) for row in rows]

    async def put(self, *snapshots: Snapshot) -> None:
        async with self.store.reading() as connection:
            await connection.executemany(SQL["put_snapshot"], snapshots)

    # --- the trial balance ------------------------------------------------------------------------------------------

    async def house_snapshot_at(self, position: int) -> HouseSnapshot | None:
        row = await self.store.fetch_row(SQL["house_snapshot_at"], position)
        return HouseSnapshot(*row) if row is not None else None

    async def rows_after(self, position: int, until: int, limit: int) -> list[Checked]:
        rows = await self.store.fetch(SQL["events_after"], position, until, limit)
        return await checked_records(rows)

    async def put_house(self, snapshot: HouseSnapshot) -> None:
        await self.store.execute(SQL["put_house_snapshot"], *snapshot)


def _snapshot(aggregate_id: UUID, row: asyncpg.Record) -> Snapshot:
    return Snapshot(
        aggregate_id,
        row["position"],
        row["stream_version"],
        Kind(row["kind"]),
        row["state"],
        row["leaf_hash"],
        row["seal"],
    )


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
        rows = await self.store.fetch(TRACE_SQL["trace_events"], list(ids))
        return await checked_records(rows)

    async def outcomes(self, command_id: UUID) -> list[OutcomeRow]:
        return await self.store.outcomes([command_id])

    async def _ids(self, query: str, *arguments: object) -> list[UUID]:
        return [row["event_id"] for row in await self.store.fetch(TRACE_SQL[query], *arguments)]
