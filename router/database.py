"""The directory's PostgreSQL, which may be away: at the start, or at any time later."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import asyncpg
import structlog

from router.refusals import DirectoryUnavailable
from server.shell.database import Pool, migrate, open_pool
from server.shell.postgres_host import PostgresFailed

log = structlog.get_logger()

# Quoted: generic for the type checker only.
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"

ROLE = "cellbook_cell"
# Statements are few and short: calls that come together share them.
CONNECTIONS_MAX = 4
CLOSE_TIMEOUT_S = 5.0

# It is away, going or out of room, or has broken a deadlock: the same may succeed in a moment.
PASSING = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
)
# Why it cannot be opened now, and may be later; its own server may have to be mended first.
AWAY = (*PASSING, asyncpg.PostgresError, PostgresFailed)


class Database:
    """`source` starts what has to be started and returns a DSN; it is asked again whenever the database is away."""

    def __init__(self, source: Callable[[], Awaitable[str]]) -> None:
        self._source = source
        self._pool: Pool | None = None
        self._dsn = ""
        # Whether the last statement said so; none is tried in between by those who have another way.
        self.away = True

    async def open(self) -> None:
        """Brings the schema up to date, and connects. Raises AWAY, or MigrationFailed."""
        dsn = await self._source()
        if self._pool is not None and dsn == self._dsn:
            return
        await migrate(dsn, "router.sql")
        await self.close()
        self._pool = await open_pool(dsn, role=ROLE, application="cellbook-router", size_max=CONNECTIONS_MAX)
        self._dsn, self.away = dsn, False

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Raises DirectoryUnavailable where it is not opened, or what is done within fails for a passing reason."""
        if self._pool is None:
            raise DirectoryUnavailable
        try:
            async with self._pool.acquire() as connection:
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
            await asyncio.wait_for(pool.close(), CLOSE_TIMEOUT_S)
        except TimeoutError:
            pool.terminate()
