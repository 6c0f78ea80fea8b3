"""Passes over a cell's tables on the cell's request: in this process, or in a separate one."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import asyncpg

from cells.audit.reconcile.findings import Order, Report, Tell, WrongState
from cells.audit.reconcile.one_pass import DERIVED, PROJECTIONS, Derived, Difference, Reconciler
from cells.domain.record import Struct
from cells.domain.refusals import NotLeading, Unavailable
from cells.sql import queries
from cells.store.ports import Fenced, StoreUnavailable
from cells.store.sessions import Connection

SQL = queries("cells.sql", "mend.sql")
CLOSE_TIMEOUT_S = 5.0


class Passes(Protocol):
    async def run(self, order: Order, tell: Tell) -> Report:
        """Runs one complete pass.

        Raises:
            AuditUnderWay: a pass is running in this database.
            NotLeading: rows were to be repaired, but another process leads.
            Unavailable: anything else. The pass compared nothing conclusively and changed nothing.
        """


class DirectPasses(Struct, frozen=True, kw_only=True):
    """Passes in this process. `connect` opens a connection with the cell's role, `connect_owner` with the owner's."""

    cell: str
    connect: Callable[[], Awaitable[Connection]]
    connect_owner: Callable[[], Awaitable[Connection]]

    async def run(self, order: Order, tell: Tell) -> Report:
        try:
            return await self._run(order, tell)
        except Fenced:
            raise NotLeading(cell=self.cell) from None
        except asyncpg.IntegrityConstraintViolationError as error:
            problem = f"{error.constraint_name} of {error.table_name} forbids what the log says: {error}"
            problem = f"{problem}. Compare the log with a checkpoint that is kept elsewhere"
            raise Unavailable(problem=problem) from error
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, StoreUnavailable) as error:
            raise Unavailable(problem=f"{type(error).__name__}: {error}") from error

    async def _run(self, order: Order, tell: Tell) -> Report:
        connection = await self.connect()
        try:
            wrong = Reconciler(connection=connection, order=order, tell=tell)
            report = await wrong.run()
        finally:
            await connection.close(timeout=CLOSE_TIMEOUT_S)
        allowed = frozenset(order.strangers)
        strangers = [each for each in report.states if not each.stream_version and each.id in allowed]
        any_wrong = wrong.differences or strangers or wrong.snapshots or wrong.house_snapshots
        if any_wrong and order.mend_epoch is not None and not report.damaged_count:
            owner = await self.connect_owner()
            try:
                report.mended_count = await repair(owner, order.mend_epoch, wrong, strangers)
            finally:
                await owner.close(timeout=CLOSE_TIMEOUT_S)
        return report


async def repair(owner: Connection, epoch: int, wrong: Reconciler, strangers: Sequence[WrongState]) -> int:
    """Repairs derived rows as the owner of the tables: no other role may change or delete them.

    It is one short transaction. It locks the head row first, as every commit of the writer does: meanwhile no process
    writes, and a deposed leader is refused. It inserts rows that follow from events, and deletes rows that do not.
    Wrong snapshots are deleted, and made again from the events later. `strangers` are aggregates with rows but without
    events. Returns the number of repaired rows.

    Raises:
        Fenced: another process leads now.
    """
    async with owner.transaction():
        if await owner.fetchval(SQL["lock_head"]) != epoch:
            raise Fenced("another process leads: nothing was put right")
        for derived in DERIVED:
            await _mend(owner, derived, [each for each in wrong.differences if each.table == derived.table])
        by_table = defaultdict(list)
        for stranger in strangers:
            by_table[PROJECTIONS[stranger.kind]].append(stranger.id)
        for table, ids in sorted(by_table.items()):
            await owner.execute(SQL[f"drop_{table}"], ids)
        await owner.execute(SQL["drop_snapshots"], wrong.snapshots)
        await owner.execute(SQL["drop_house_snapshots"], wrong.house_snapshots)
    snapshots = len(set(wrong.snapshots)) + len(set(wrong.house_snapshots))
    return len(wrong.differences) + len(strangers) + snapshots


async def _mend(owner: Connection, derived: Derived, differences: Sequence[Difference]) -> None:
    if not differences:
        return
    wrong = [derived.key_of(each.found) for each in differences if each.found is not None]
    right = [each.expected for each in differences if each.expected is not None]
    await owner.execute(SQL[f"open_{derived.table}"])
    if wrong:
        await owner.execute(SQL[f"drop_{derived.table}"], *zip(*wrong, strict=True))
    if right:
        await owner.copy_records_to_table(derived.table, records=right, columns=derived.columns)
    await owner.execute(SQL[f"close_{derived.table}"])
