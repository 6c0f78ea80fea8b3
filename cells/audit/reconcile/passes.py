"""Passes over a cell's tables on the cell's request: in this process, or in a separate one."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias
from uuid import UUID

import asyncpg

from cells.audit.checks.log_check import LogCheck
from cells.audit.reconcile.findings import Progress, Report, WrongState
from cells.audit.reconcile.one_pass import AnotherPass, Reconciler
from cells.audit.reconcile.repair import WrongSnapshots, repair
from cells.domain.record import Struct, replace
from cells.store.ports import Fenced, StoreUnavailable

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Tell = Callable[[Progress], None]

CLOSE_TIMEOUT_S = 5.0


class Order(Struct, frozen=True, kw_only=True):
    full: bool = False
    # Do a full pass also if the last one ended longer ago than this; 0: do not.
    full_every_s: int = 0
    # The maximum rate; 0: no limit.
    events_per_s: int = 0
    # The last signed size of the log, and the root of the tree over those events, in hexadecimal.
    signed_size: int = 0
    signed_root: str = ""
    # The key that seals the replay state between passes, in hexadecimal; empty: no seal.
    replay_key: str = ""
    # The epoch that must lead for rows to be repaired: rows that follow from single events, and need no writer.
    mend_epoch: int | None = None
    # Also repair rows of these aggregates, which have no events.
    strangers: tuple[UUID, ...] = ()


class PassFailed(Exception):
    """The pass did not complete: the message says why. It compared nothing conclusively and changed nothing."""


class Passes(Protocol):
    async def run(self, order: Order, tell: Tell) -> Report:
        """Runs one complete pass.

        Raises:
            AnotherPass: a pass is running in this database.
            Fenced: rows were to be repaired, but another process leads.
            PassFailed: anything else.
        """


class DirectPasses(Struct, frozen=True, kw_only=True):
    """Passes in this process. `connect` opens a connection with the cell's role, `connect_owner` with the owner's."""

    connect: Callable[[], Awaitable[Connection]]
    connect_owner: Callable[[], Awaitable[Connection]]

    async def run(self, order: Order, tell: Tell) -> Report:
        try:
            return await self._run(order, tell)
        except (AnotherPass, Fenced):
            raise
        except asyncpg.IntegrityConstraintViolationError as error:
            problem = f"{error.constraint_name} of {error.table_name} forbids what the log says: {error}"
            raise PassFailed(f"{problem}. Compare the log with a checkpoint that is kept elsewhere") from error
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, StoreUnavailable) as error:
            raise PassFailed(f"{type(error).__name__}: {error}") from error

    async def _run(self, order: Order, tell: Tell) -> Report:
        connection = await self.connect()
        try:
            reconciler = Reconciler(
                connection=connection,
                full=order.full,
                full_every_s=order.full_every_s,
                events_per_s=order.events_per_s,
                log=LogCheck(signed_size=order.signed_size, signed_root=order.signed_root),
                key=bytes.fromhex(order.replay_key),
                tell=tell,
            )
            report = await reconciler.run()
        finally:
            await connection.close(timeout=CLOSE_TIMEOUT_S)
        allowed = frozenset(order.strangers)
        strangers = [each for each in report.states if not each.stream_version and each.id in allowed]
        if report.damaged_count:
            return report
        snapshots = WrongSnapshots(reconciler.snapshots, reconciler.house_snapshots)
        if order.mend_epoch is None or not (reconciler.differences or strangers or any(snapshots)):
            return report
        return replace(report, mended_count=await self._mend(order.mend_epoch, reconciler, strangers, snapshots))

    async def _mend(
        self, epoch: int, reconciler: Reconciler, strangers: Sequence[WrongState], snapshots: WrongSnapshots
    ) -> int:
        owner = await self.connect_owner()
        try:
            return await repair(
                owner, epoch=epoch, differences=reconciler.differences, strangers=strangers, snapshots=snapshots
            )
        finally:
            await owner.close(timeout=CLOSE_TIMEOUT_S)
