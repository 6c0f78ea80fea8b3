"""The event store on PostgreSQL: one connection for writing, a few for the leader's lookups, a pool for readers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime
from operator import itemgetter
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from cells.domain.sagas.saga import SagaState
from cells.domain.values import Kind, Ref
from cells.encoding.head_seal import HeadSeal
from cells.encoding.outcome_seal import OutcomeSeal
from cells.sql import queries
from cells.store.failures import lost, passing, poison, raise_as
from cells.store.head import resume_seal
from cells.store.moves import MovesInPostgres, keep_brought
from cells.store.ports import (
    EVERYTHING,
    POSITION_MAX,
    Batch,
    EventFilter,
    EventRow,
    Fenced,
    Head,
    HeadMoved,
    OutcomeRow,
    ProjectionRow,
    SagaFilter,
    SagaPlace,
    Timer,
    Versioned,
)
from cells.store.rows import TABLES, event_of, head_of, states_of, versioned
from cells.store.sessions import SCAN_TIMEOUT_S, Connection, Pool, at_work, session_of, suspect, works
from cells.store.unusable import DatabaseOfAnotherCell, ImportUnfinished, SagasOfAnotherEngine

log = structlog.get_logger()

# How long the writer waits for a response, or for a sign that the server is working (store_sessions.py).
COMMIT_TIMEOUT_S = 3.0
CLOSE_TIMEOUT_S = 2.0

SQL = queries("cells.sql", "store.sql")


@dataclass(slots=True, kw_only=True)
class PostgresStore(MovesInPostgres):
    """`connect` opens a connection for the writer, named for the epoch that it serves; `reads` serves all lookups.

    `leads` serves the leader's lookups, see `of_leader`. Connections must have the cell's role, and the database must
    be migrated.
    """

    cell: str
    # It has no timeouts of its own: the writer waits while the server works.
    connect: Callable[[str], Awaitable[Connection]]
    reads: Pool
    leads: "Pool | None" = None
    saga_engine: str = "native"
    # None: the end of the log is not sealed.
    seal: HeadSeal | None = None
    # None: stored answers are not sealed.
    outcome_seal: OutcomeSeal | None = None
    # If one session is silent, those of all these pools are suspect.
    pools: tuple[Pool, ...] = ()
    _of_leader: "PostgresStore | None" = None
    _writer: "Connection | None" = None
    _appending: bool = False
    _epoch: int = 0
    _partitions_kept_on: date | None = None

    def __post_init__(self) -> None:
        self.pools = self.pools or tuple(pool for pool in (self.reads, self.leads) if pool is not None)

    # --- leading ------------------------------------------------------------------------------------------------

    def of_leader(self) -> "PostgresStore":
        """The same store with connections that readers cannot take: a writer delayed by readers would miss its beat."""
        if self._of_leader is None:
            self._of_leader = self if self.leads is None else replace(self, reads=self.leads, leads=None)
        return self._of_leader

    async def prepare(self) -> None:
        """Makes the head row. Raises DatabaseOfAnotherCell, and as `claim` does.

        Raises ImportUnfinished if the database holds a part of an imported log.
        """
        async with self.reading() as connection:
            await connection.execute(SQL["make_head"], self.cell)
            if await connection.fetchval(SQL["importing"]):
                raise ImportUnfinished
            await self._check_sagas(connection)
        head = await self.head()
        if head.cell != self.cell:
            raise DatabaseOfAnotherCell(found=head.cell, wanted=self.cell)

    async def head(self) -> Head:
        async with self.reading() as connection:
            return head_of(await connection.fetchrow(SQL["head"]))

    async def claim(self, *, expected_epoch: int | None = None) -> Head:
        await self._drop_writer()
        try:
            async with at_work(COMMIT_TIMEOUT_S, self._writer_works):
                return await self._claim(expected_epoch)
        except BaseException as error:
            await self._drop_writer(error)
            raise_as(passing(error), error)
            raise

    async def _claim(self, expected_epoch: int | None) -> Head:
        self._writer = connection = await self.connect(self._application("claim"))
        # A deposed leader that is stopped, not dead, may stay in a transaction forever: terminate its connection first.
        before = head_of(await connection.fetchrow(SQL["head"]))
        await self._check_sagas(connection)
        if expected_epoch is None or before.epoch == expected_epoch:
            await self._terminate_deposed(connection, before.epoch)
        async with connection.transaction():
            epoch = await connection.fetchval(SQL["claim"], expected_epoch)
            if epoch is None:
                raise Fenced(f"the epoch is {before.epoch}, not {expected_epoch}: another process leads, or imports")
            # All writes of earlier epochs are visible now; if they belong to another engine, nothing changes.
            await self._check_sagas(connection)
            if self.seal is not None:
                await resume_seal(self.seal, connection)
            await connection.execute(SQL["take_sagas"], self.saga_engine)
        self._epoch = epoch
        await connection.execute(SQL["rename"], self._application(str(epoch)))
        await self._keep_partitions(connection, None)
        return head_of(await connection.fetchrow(SQL["head"]))

    async def _check_sagas(self, connection: Connection) -> None:
        engine = await connection.fetchval(SQL["sagas_of_another_engine"], self.saga_engine)
        if engine is not None:
            raise SagasOfAnotherEngine(engine=engine, wanted=self.saga_engine)

    async def _terminate_deposed(self, connection: Connection, epoch: int) -> None:
        try:
            async with connection.transaction():
                await connection.execute(SQL["as_login_role"])
                await connection.execute(SQL["terminate_deposed"], self._application(str(epoch)))
        except asyncpg.InsufficientPrivilegeError as error:
            # Another login's backend: we wait for its lock until the server ends the idle transaction.
            log.info("deposed_not_terminated", problem=str(error))

    def _application(self, what: str) -> str:
        return f"cellbook/{self.cell}/writer/{what}"

    async def _keep_partitions(self, connection: Connection, now: datetime | None) -> None:
        """Uses the given time, or the head row's. Partitions are made ahead, so a failed attempt can wait."""
        try:
            await connection.execute(SQL["keep_outcome_partitions"], now)
        except asyncpg.LockNotAvailableError as error:
            log.warning("outcome_partitions_not_kept", problem=str(error))

    # --- writing ------------------------------------------------------------------------------------------------

    async def append(self, batch: Batch) -> None:
        self._appending = True
        try:
            await self._append(batch)
        finally:
            self._appending = False

    async def _append(self, batch: Batch) -> None:
        committing = False
        leaves = [row.leaf_hash for row in batch.events]
        seal = self.seal.next(batch.position_after, leaves) if self.seal is not None else None
        try:
            async with at_work(COMMIT_TIMEOUT_S, self._writer_works):
                connection = await self._writers()
                await self._keep_partitions_daily(connection, batch)
                await connection.execute("BEGIN")
                await self._write(connection, batch, seal)
                committing = True
                await connection.execute("COMMIT")
        except Fenced:
            raise
        except BaseException as error:
            await self._drop_writer(error)
            raise_as(poison(error) or lost(error, committing=committing), error)
            raise
        if self.seal is not None:
            self.seal.moved(leaves)

    async def _keep_partitions_daily(self, connection: Connection, batch: Batch) -> None:
        if batch.outcomes and batch.outcomes[0].recorded_at.date() != self._partitions_kept_on:
            now = batch.outcomes[0].recorded_at
            await self._keep_partitions(connection, now)
            self._partitions_kept_on = now.date()

    async def _write(self, connection: Connection, batch: Batch, seal: tuple[int, bytes] | None) -> None:
        moved = await connection.execute(
            SQL["move_head"],
            batch.epoch,
            batch.position_before,
            batch.position_after,
            batch.hlc_bound_ms,
            batch.stepping_down,
            *(seal or (None, None)),
        )
        if moved != "UPDATE 1":
            await connection.execute("ROLLBACK")
            head = head_of(await connection.fetchrow(SQL["head"]))
            problem = f"the head is not at epoch {batch.epoch}, position {batch.position_before} any more"
            # Under one epoch there is one writer: only a rule breaker can have moved the head.
            raise HeadMoved(problem) if head.epoch == batch.epoch else Fenced(problem)
        for table in TABLES:
            if records := table.rows_in(batch):
                await connection.copy_records_to_table(table.name, records=records, columns=table.row._fields)
        if batch.outcomes:
            await self._put_outcomes(connection, batch.outcomes)
        await self._put_projections(connection, batch.projections)
        if batch.house_changes:
            # Sorted, so that two writers can never lock in opposite orders.
            changes = sorted((account, currency, by) for (account, currency), by in batch.house_changes.items())
            await connection.execute(SQL["move_house"], *zip(*changes, strict=True))
        if batch.brought_outcomes:
            await keep_brought(connection, batch.brought_outcomes, self.outcome_seal)
        if batch.ended_outcomes:
            seal_of = self.outcome_seal.of_brought if self.outcome_seal is not None else _no_seal
            ended = [(row.command_id, *row[2:6], row.saga_id, seal_of(row)) for row in batch.ended_outcomes]
            await connection.execute(SQL["end_outcomes"], *zip(*ended, strict=True))

    async def _put_outcomes(self, connection: Connection, rows: Sequence[OutcomeRow]) -> None:
        records: Sequence[tuple[Any, ...]] = rows
        columns: tuple[str, ...] = OutcomeRow._fields
        if self.outcome_seal is not None:
            records, columns = self.outcome_seal.sealed(rows), (*columns, "seal")
        await connection.copy_records_to_table("command_outcomes", records=records, columns=columns)

    async def _put_projections(self, connection: Connection, projections: Sequence[ProjectionRow]) -> None:
        by_kind: dict[Kind, list[tuple[object, ...]]] = {}
        for kind, aggregate_id, stream_version, state, columns in projections:
            by_kind.setdefault(kind, []).append((aggregate_id, stream_version, state, *columns))
        for kind, rows in sorted(by_kind.items()):
            await connection.execute(SQL[f"put_{kind}s"], *zip(*sorted(rows, key=itemgetter(0)), strict=True))

    async def _writers(self) -> Connection:
        """The writer's connection, reopened if it was lost."""
        if self._writer is None or self._writer.is_closed():
            try:
                self._writer = await self.connect(self._application(str(self._epoch)))
                # The lost one may hold the head's lock: the server may not know yet that it is lost.
                await self._terminate_deposed(self._writer, self._epoch)
            except BaseException as error:
                await self._drop_writer()
                raise_as(passing(error), error)
                raise
        return self._writer

    async def _writer_works(self) -> bool:
        writer = self._writer
        if writer is None or writer.is_closed():
            return False
        return await works(lambda: self.connect(self._application("at-work")), writer.get_server_pid())

    async def _drop_writer(self, error: BaseException | None = None) -> None:
        connection, self._writer = self._writer, None
        if connection is not None:
            connection.terminate()
        if isinstance(error, TimeoutError):
            await suspect(self.pools)

    # --- reading ------------------------------------------------------------------------------------------------

    async def load(self, refs: Sequence[Ref]) -> dict[Ref, Versioned]:
        by_kind: dict[Kind, list[UUID]] = {}
        for ref in refs:
            if ref.kind is not Kind.AUDIT:
                by_kind.setdefault(ref.kind, []).append(ref.id)
        found: dict[Ref, Versioned] = {}
        async with self.reading() as connection:
            for kind, ids in by_kind.items():
                rows = await connection.fetch(SQL[f"load_{kind}"], ids)
                found |= states_of(kind, rows)
        return found

    async def outcomes(self, command_ids: Sequence[UUID]) -> list[OutcomeRow]:
        async with self.reading() as connection:
            rows = await connection.fetch(SQL["outcomes"], command_ids)
        return [OutcomeRow(*row) for row in rows]

    async def events(
        self,
        *,
        from_position: int,
        until_position: int = POSITION_MAX,
        limit: int,
        event_filter: EventFilter = EVERYTHING,
    ) -> list[EventRow]:
        name = "events"
        if event_filter.aggregate_id is not None:
            name = "events_of_aggregate"
        elif event_filter.correlation_id is not None:
            name = "events_of_correlation"
        async with self.reading() as connection:
            rows = await connection.fetch(
                SQL[name],
                from_position,
                limit,
                event_filter.event_types,
                event_filter.aggregate_id,
                event_filter.correlation_id,
                event_filter.user_id,
                until_position,
            )
        return [event_of(row) for row in rows]

    async def list_states(
        self, kind: Kind, *, states: Sequence[str], after: UUID | None, limit: int
    ) -> list[tuple[UUID, Versioned]]:
        async with self.reading() as connection:
            if states:
                rows = await connection.fetch(SQL[f"list_{kind}_in"], after, limit, list(states))
            else:
                rows = await connection.fetch(SQL[f"list_{kind}"], after, limit)
        return [(row["id"], versioned(kind, row)) for row in rows]

    async def list_sagas(
        self, wanted: SagaFilter, *, after: SagaPlace | None, limit: int
    ) -> list[tuple[UUID, Versioned]]:
        async with self.reading() as connection:
            rows = await connection.fetch(
                SQL["list_sagas"],
                list(wanted.states or SagaState),
                wanted.started_from_ms,
                wanted.started_before_ms,
                *(after or (None, None)),
                wanted.kind or "",
                wanted.cell,
                wanted.paused,
                wanted.ids,
                limit,
                timeout=SCAN_TIMEOUT_S,
            )
        return [(row["id"], versioned(Kind.SAGA, row)) for row in rows]

    async def timers(self) -> list[Timer]:
        async with self.reading() as connection:
            rows = await connection.fetch(SQL["timers"], timeout=SCAN_TIMEOUT_S)
        return [Timer(row["due_ms"], Kind(row["kind"]), row["id"], row["hold_id"]) for row in rows]

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection]:
        try:
            async with session_of(self.reads, self.pools) as connection:
                yield connection
        except Exception as error:
            if isinstance(error, TimeoutError) and not self._appending:
                # It is as suspect as all others, and the next append would detect that only after a timeout.
                await self._drop_writer()
            raise_as(passing(error), error)
            raise

    async def close(self) -> None:
        if self.leads is not None:
            await self.of_leader().close()
        await self._drop_writer()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self.reads.close()
        except TimeoutError:
            self.reads.terminate()


def _no_seal(_: OutcomeRow) -> None:
    """There is no key."""
