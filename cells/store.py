"""The event store on PostgreSQL: one writer's connection, a small pool for reads."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

import asyncpg
import structlog

from cells import codec
from cells.domain.leg import LegBarrier, LegMark, LegResult, UsedReference
from cells.domain.values import Direction, Kind, Ref
from cells.ports import (
    EVERYTHING,
    AccountEntryRow,
    Batch,
    ClearingEntryRow,
    CommitUnknown,
    EventFilter,
    EventRow,
    Fenced,
    Head,
    LegRow,
    OutcomeRow,
    Poisoned,
    ReferenceRow,
    StoreUnavailable,
    Timer,
    Versioned,
)
from cells.sql import queries

log = structlog.get_logger()

# Quoted: the classes are generic for the type checker only.
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
T = TypeVar("T")

COMMIT_TIMEOUT_S = 15.0
CLOSE_TIMEOUT_S = 2.0
OUTCOMES_KEPT = timedelta(days=30)
PARTITIONS_EVERY = timedelta(hours=12)

SQL = queries("cells.sql", "store.sql")
AGGREGATES = (Kind.ACCOUNT, Kind.ASSET, Kind.AUCTION, Kind.SAGA)
TERMINAL = frozenset({"COMPLETED", "COMPENSATED"})
# What the loss of a connection looks like, whoever notices it first.
LOST = (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, TimeoutError)
GOING_AWAY = (asyncpg.OperatorInterventionError, asyncpg.TooManyConnectionsError)

COPIES: tuple[tuple[str, str, type[Any]], ...] = (
    ("event_store", "events", EventRow),
    ("account_entries", "account_entries", AccountEntryRow),
    ("clearing_entries", "clearing_entries", ClearingEntryRow),
    ("saga_legs", "legs", LegRow),
    ("external_references", "references", ReferenceRow),
    ("command_outcomes", "outcomes", OutcomeRow),
)


@dataclass(slots=True, kw_only=True)
class PostgresStore:
    """`connect` opens a connection for the writer, named as the epoch that it serves; `reads` is for all else."""

    cell: str
    connect: Callable[[str], Awaitable[Connection]]
    reads: Pool
    _writer: "Connection | None" = None
    _epoch: int = 0
    _partitions_made: datetime = datetime.min.replace(tzinfo=UTC)
    _closing: bool = field(default=False)

    # --- leading ----------------------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Makes the head row. Raises ValueError where the database belongs to another cell."""
        async with self._reading() as connection:
            await connection.execute(SQL["make_head"], self.cell)
        head = await self.head()
        if head.cell != self.cell:
            raise ValueError(f"this database belongs to cell {head.cell!r}, not to {self.cell!r}: check the dsn")

    async def head(self) -> Head:
        async with self._reading() as connection:
            return _head(await connection.fetchrow(SQL["head"]))

    async def claim(self, *, expected_epoch: int | None = None) -> Head:
        await self._drop_writer()
        try:
            return await asyncio.wait_for(self._claim(expected_epoch), COMMIT_TIMEOUT_S)
        except (*LOST, *GOING_AWAY) as error:
            await self._drop_writer()
            raise StoreUnavailable(str(error) or type(error).__name__) from error

    async def _claim(self, expected_epoch: int | None) -> Head:
        connection = await self.connect(self._application("claim"))
        self._writer = connection
        # A deposed leader that is stopped, not dead, may sit in a transaction for ever: cut its connections first.
        before = _head(await connection.fetchrow(SQL["head"]))
        if expected_epoch is None or before.epoch == expected_epoch:
            await self._terminate_deposed(connection, before.epoch)
        epoch = await connection.fetchval(SQL["claim"], expected_epoch)
        if epoch is None:
            raise Fenced(f"another process has raised the epoch beyond {expected_epoch}")
        self._epoch = epoch
        await connection.execute(SQL["rename"], self._application(str(epoch)))
        await self._keep_partitions(connection, datetime.now(UTC))
        return _head(await connection.fetchrow(SQL["head"]))

    async def _terminate_deposed(self, connection: Connection, epoch: int) -> None:
        try:
            await connection.execute(SQL["terminate_deposed"], self._application(str(epoch)))
        except asyncpg.InsufficientPrivilegeError as error:
            # The fence holds without it; the old transaction's lock is then waited for.
            log.info("deposed_not_terminated", problem=str(error))

    def _application(self, what: str) -> str:
        return f"cellbook/{self.cell}/writer/{what}"

    async def _keep_partitions(self, connection: Connection, now: datetime) -> None:
        if now - self._partitions_made > PARTITIONS_EVERY:
            await connection.execute(SQL["keep_outcome_partitions"], now, OUTCOMES_KEPT)
            self._partitions_made = now

    # --- writing ----------------------------------------------------------------------------------------------------

    async def append(self, batch: Batch) -> None:
        connection = await self._writers()
        committing = False
        try:
            async with asyncio.timeout(COMMIT_TIMEOUT_S):
                if batch.outcomes:
                    await self._keep_partitions(connection, batch.outcomes[0].recorded_at)
                await connection.execute("BEGIN")
                await self._write(connection, batch)
                committing = True
                await connection.execute("COMMIT")
        except asyncpg.PostgresError as error:
            raise await self._failed(error, committing=committing) from error
        except LOST as error:
            await self._drop_writer()
            problem = str(error) or type(error).__name__
            raise (CommitUnknown(problem) if committing else StoreUnavailable(problem)) from error
        except BaseException:
            await self._drop_writer()
            raise

    async def _write(self, connection: Connection, batch: Batch) -> None:
        moved = await connection.execute(
            SQL["move_head"],
            batch.epoch,
            batch.position_before,
            batch.position_after,
            batch.hlc_bound_ms,
            batch.stepping_down,
        )
        if moved != "UPDATE 1":
            await connection.execute("ROLLBACK")
            raise Fenced(f"the head is not at epoch {batch.epoch}, position {batch.position_before} any more")
        for table, part, row in COPIES:
            records = getattr(batch, part)
            if records:
                await connection.copy_records_to_table(table, records=records, columns=row._fields)
        for kind in AGGREGATES:
            rows = [row for row in batch.projections if row.kind is kind]
            if rows:
                columns = list(zip(*((row.aggregate_id, row.stream_version, row.state) for row in rows), strict=True))
                await connection.execute(SQL[f"put_{kind}s"], *columns)
        if batch.house_changes:
            # Sorted, so that two writers could never lock in opposite orders.
            changes = sorted((account, currency, by) for (account, currency), by in batch.house_changes.items())
            await connection.execute(SQL["move_house"], *zip(*changes, strict=True))
        if batch.ended_outcomes:
            ended = [
                (row.command_id, row.outcome, row.position, row.hlc_physical, row.hlc_logical)
                for row in batch.ended_outcomes
            ]
            await connection.execute(SQL["end_outcomes"], *zip(*ended, strict=True))

    async def _failed(self, error: asyncpg.PostgresError, *, committing: bool) -> Exception:
        """What an error of PostgreSQL means for the batch. The connection is not used again."""
        await self._drop_writer()
        sqlstate = error.sqlstate or ""
        if sqlstate[:2] in {"22", "23"}:
            return Poisoned(sqlstate, str(error))
        # The server was going away with the COMMIT under way: it may or may not be in the log.
        if committing:
            return CommitUnknown(str(error))
        return StoreUnavailable(str(error))

    async def _writers(self) -> Connection:
        if self._writer is not None and not self._writer.is_closed():
            return self._writer
        try:
            self._writer = await self.connect(self._application(str(self._epoch)))
        except (*LOST, asyncpg.PostgresError) as error:
            raise StoreUnavailable(str(error) or type(error).__name__) from error
        return self._writer

    async def _drop_writer(self) -> None:
        connection, self._writer = self._writer, None
        if connection is not None:
            connection.terminate()

    # --- reading ----------------------------------------------------------------------------------------------------

    async def load(self, refs: Sequence[Ref]) -> dict[Ref, Versioned]:
        by_kind: dict[Kind, list[UUID]] = {}
        for ref in refs:
            by_kind.setdefault(ref.kind, []).append(ref.id)
        found: dict[Ref, Versioned] = {}
        async with self._reading() as connection:
            for kind, ids in by_kind.items():
                rows = await connection.fetch(SQL[f"load_{kind}"], ids)
                found |= _LOADED[kind](rows) if kind in _LOADED else _aggregates(kind, rows)
        return found

    async def outcomes(self, command_ids: Sequence[UUID]) -> dict[UUID, OutcomeRow]:
        async with self._reading() as connection:
            rows = await connection.fetch(SQL["outcomes"], command_ids)
        return {row["command_id"]: OutcomeRow(*row) for row in rows}

    async def events(
        self, *, from_position: int, limit: int, event_filter: EventFilter = EVERYTHING
    ) -> list[EventRow]:
        async with self._reading() as connection:
            rows = await connection.fetch(
                SQL["events"],
                from_position,
                limit,
                event_filter.event_types,
                event_filter.aggregate_id,
                event_filter.correlation_id,
                event_filter.user_id,
            )
        return [_event(row) for row in rows]

    async def list_states(
        self, kind: Kind, *, states: Sequence[str], after: UUID | None, limit: int
    ) -> list[tuple[UUID, Versioned]]:
        running = kind is Kind.SAGA and states and not TERMINAL.intersection(states)
        name = "list_running_saga" if running else f"list_{kind}"
        async with self._reading() as connection:
            rows = await connection.fetch(SQL[name], after, list(states), limit)
        return [(row["id"], _versioned(kind, row)) for row in rows]

    async def timers(self) -> list[Timer]:
        async with self._reading() as connection:
            rows = await connection.fetch(SQL["timers"])
        return [Timer(row["due_ms"], Kind(row["kind"]), row["id"], row["hold_id"]) for row in rows]

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[Connection]:
        try:
            async with self.reads.acquire(timeout=COMMIT_TIMEOUT_S) as connection:
                yield connection  # type: ignore[misc]
        except (*LOST, *GOING_AWAY) as error:
            raise StoreUnavailable(str(error) or type(error).__name__) from error

    async def close(self) -> None:
        await self._drop_writer()
        try:
            await asyncio.wait_for(self.reads.close(), CLOSE_TIMEOUT_S)
        except TimeoutError:
            self.reads.terminate()


def _head(row: asyncpg.Record | None) -> Head:
    if row is None:
        raise StoreUnavailable("the head row is missing: the database is not prepared")
    return Head(
        cell=row["cell"],
        epoch=row["epoch"],
        position=row["position"],
        hlc_bound_ms=row["hlc_bound_ms"],
        beat=row["beat"],
        vector_clock=json.loads(row["vector_clock"]) if row["vector_clock"] else {},
    )


def _versioned(kind: Kind, row: asyncpg.Record) -> Versioned:
    return Versioned(codec.decode_state(kind, row["state"]), row["stream_version"])


def _aggregates(kind: Kind, rows: Sequence[asyncpg.Record]) -> dict[Ref, Versioned]:
    return {Ref(kind, row["id"]): _versioned(kind, row) for row in rows}


def _legs(rows: Sequence[asyncpg.Record]) -> dict[Ref, Versioned]:
    marks: dict[UUID, dict[str, LegMark]] = {}
    for row in rows:
        mark = LegMark(LegResult(row["result"]), row["event_id"])
        marks.setdefault(row["leg_id"], {})[row["direction"]] = mark
    return {
        Ref(Kind.LEG, leg_id): Versioned(
            LegBarrier(
                action=of_leg.get(Direction.ACTION.value), compensation=of_leg.get(Direction.COMPENSATION.value)
            ),
            0,
        )
        for leg_id, of_leg in marks.items()
    }


def _references(rows: Sequence[asyncpg.Record]) -> dict[Ref, Versioned]:
    return {
        Ref(Kind.REFERENCE, row["reference_id"]): Versioned(UsedReference(position=row["position"]), 0)
        for row in rows
    }


_LOADED: dict[Kind, Callable[[Sequence[asyncpg.Record]], dict[Ref, Versioned]]] = {
    Kind.LEG: _legs,
    Kind.REFERENCE: _references,
}


def _event(row: asyncpg.Record) -> EventRow:
    """JSON comes in PostgreSQL's own order: the hash is over the canonical one."""
    return EventRow(*row)._replace(
        vector_clock=codec.recanonical(row["vector_clock"]),
        payload=codec.recanonical(row["payload"]),
        metadata=codec.recanonical(row["metadata"]),
    )
