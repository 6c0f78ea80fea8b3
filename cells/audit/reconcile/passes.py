"""Passes over a cell's tables on the cell's request: in this process, or in a separate one."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

import asyncpg

from cells.audit.reconcile.findings import Order, Report, Tell
from cells.audit.reconcile.one_pass import Reconciler
from cells.audit.reconcile.repair import repair
from cells.domain.record import Struct
from cells.domain.refusals import NotLeading, Unavailable
from cells.store.ports import Fenced, StoreUnavailable

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

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
