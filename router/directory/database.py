"""The directory's PostgreSQL, which may be unreachable at the start or at any time later."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import structlog

from cells.sql import queries
from router.refusals import DirectoryUnavailable
from server.shell.hosting.failures import CannotServe, DatabaseUnusable, reaching
from server.shell.postgres.database import CELL_ROLE, Connection, Pool, migrate, open_pool, session_of
from server.shell.postgres.host import PostgresFailed

log = structlog.get_logger()

# Statements are few and short: concurrent calls share them.
CONNECTIONS_MAX = 4
CLOSE_TIMEOUT_S = 5.0

# It is away, shutting down or out of space, or has broken a deadlock: a retry may succeed.
PASSING = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
)


class DirectoryReplaced(CannotServe):
    """The database holds another directory than before: most likely a new, empty one, after its server lost its disk.

    Using it would give users second homes. The copy of the old directory stays in service.
    """

    def __init__(self, *, known: str, found: str) -> None:
        super().__init__(
            f"the database holds another directory ({found}) than the one of the last known good copy ({known}): "
            "restore that one, or remove the copy (setting `snapshot`) to begin with this one"
        )


# Reasons why it cannot be opened now but may be later; its server may need repair first.
AWAY = (*PASSING, asyncpg.PostgresError, DatabaseUnusable, PostgresFailed, DirectoryReplaced)


class Database:
    """`source` starts the server if needed and returns a DSN; it is called again whenever the database is away."""

    def __init__(self, source: Callable[[], Awaitable[str]], *, known: str = "", migrate_dsn: str = "") -> None:
        """`known`: the directory that must be there; empty: any. `migrate_dsn`: for migrations; empty: the same."""
        self._source = source
        self._migrate_dsn = migrate_dsn
        self._known = known
        self._pool: Pool | None = None
        self._dsn = ""
        # Whether the last statement failed for this reason; callers with an alternative then try none.
        self.away = True

    async def open(self) -> None:
        """Migrates the schema and connects. Raises AWAY, or MigrationFailed."""
        dsn = await self._source()
        if self._pool is not None and dsn == self._dsn:
            return
        with reaching("migrate_dsn" if self._migrate_dsn else "dsn", self._migrate_dsn or dsn):
            await migrate(self._migrate_dsn or dsn, "router.sql")
        await self.close()
        with reaching("dsn", dsn):
            pool = await open_pool(dsn, role=CELL_ROLE, application="cellbook-router", size_max=CONNECTIONS_MAX)
        try:
            await self._check(pool)
        except BaseException:
            pool.terminate()
            raise
        self._pool, self._dsn, self.away = pool, dsn, False

    async def _check(self, pool: Pool) -> None:
        found = str(await pool.fetchval(queries("router.sql", "cells.sql")["directory_id"]))
        if self._known not in {"", found}:
            raise DirectoryReplaced(known=self._known, found=found)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Raises DirectoryUnavailable if it is not open, or if the work within fails for a passing reason."""
        if self._pool is None:
            raise DirectoryUnavailable
        try:
            async with session_of(self._pool) as connection:
                yield connection
        except PASSING as problem:
            if not self.away:
                log.warning("directory_unavailable", problem=str(problem))
            self.away = True
            raise DirectoryUnavailable from problem
        self.away = False

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await pool.close()
        except TimeoutError:
            pool.terminate()
