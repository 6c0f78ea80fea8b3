"""PostgreSQL sessions may be silently dead, for example behind a firewall that dropped them: how long to wait.

We wait for a slow session and not for a lost one: the server itself reports whether it works for a session.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

import structlog

from cells.sql import queries

if TYPE_CHECKING:
    import asyncpg

log = structlog.get_logger()

# Quoted, because the classes are generic only for the type checker.
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

# How long to wait for a session of a pool. Its statements have timeouts of their own.
ACQUIRE_S = 5.0
# We wait no longer than this for a session that the server works for: a disk may be slow.
WORK_MAX_S = 40.0
ASK_TIMEOUT_S = 2.0
# For queries over a whole table; other timeouts are set where sessions are opened.
SCAN_TIMEOUT_S = 30.0

SQL = queries("cells.sql", "store.sql")


class Reading:
    """The single statements of a store, each in a session of its own."""

    def reading(self) -> AbstractAsyncContextManager[Connection]:
        raise NotImplementedError

    async def fetch(self, query: str, *arguments: object, timeout_s: float | None = None) -> "list[asyncpg.Record]":
        async with self.reading() as connection:
            return await connection.fetch(query, *arguments, timeout=timeout_s)
        raise AssertionError

    async def fetch_row(
        self, query: str, *arguments: object, timeout_s: float | None = None
    ) -> "asyncpg.Record | None":
        return next(iter(await self.fetch(query, *arguments, timeout_s=timeout_s)), None)

    async def execute(self, query: str, *arguments: object) -> str:
        async with self.reading() as connection:
            return await connection.execute(query, *arguments)
        raise AssertionError


@asynccontextmanager
async def session_of(pool: Pool, pools: Sequence[Pool] = ()) -> AsyncIterator[Connection]:
    """A session of the pool. If one is silent for too long, all of this pool and of `pools` are suspect."""
    try:
        async with pool.acquire(timeout=ACQUIRE_S) as connection:
            yield connection  # type: ignore[misc]
    except TimeoutError:
        await suspect((pool, *pools))
        raise


async def suspect(pools: Iterable[Pool]) -> None:
    """Reopens their sessions before the next use: if one got no answer, others would not either."""
    for pool in pools:
        await pool.expire_connections()


@asynccontextmanager
async def at_work(seconds: float, is_working: Callable[[], Awaitable[bool]]) -> AsyncIterator[None]:
    """Raises TimeoutError inside after `seconds`, unless `is_working` then says that the server is working.

    It is asked again after each further period, and not at all if the work ends earlier.
    """
    loop = asyncio.get_running_loop()
    asking: list[asyncio.Task[None]] = []
    async with asyncio.timeout(None) as bound:
        watch = _watched(bound, seconds, is_working)
        timer = loop.call_later(seconds, lambda: asking.append(asyncio.ensure_future(watch())))
        try:
            yield
        finally:
            timer.cancel()
            for task in asking:
                task.cancel()


def _watched(
    bound: asyncio.Timeout, seconds: float, is_working: Callable[[], Awaitable[bool]]
) -> Callable[[], Awaitable[None]]:
    loop = asyncio.get_running_loop()
    give_up_s = loop.time() + WORK_MAX_S

    async def watch() -> None:
        while loop.time() < give_up_s and await is_working():
            log.warning("database_slow", waited_s=round(WORK_MAX_S - (give_up_s - loop.time()), 1))
            await asyncio.sleep(seconds)
        bound.reschedule(loop.time())

    return watch


async def works(connect: Callable[[], Awaitable[Connection]], pid: int) -> bool:
    """Whether the server is working for the session of that process, asked over another session.

    False also if the session waits for its client, does not exist, or the server does not answer.
    """
    connection = None
    try:
        async with asyncio.timeout(ASK_TIMEOUT_S):
            connection = await connect()
            async with connection.transaction():
                await connection.execute(SQL["as_login_role"])
                return bool(await connection.fetchval(SQL["at_work"], pid))
    except Exception as error:  # noqa: BLE001 - whatever it is: nobody has said that it works
        log.warning("database_silent", problem=str(error) or type(error).__name__)
        return False
    finally:
        if connection is not None:
            connection.terminate()
