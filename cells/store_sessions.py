"""Sessions of PostgreSQL, which may be dead without a word, behind a firewall that forgot them: how long to wait.

One that is slow is waited for, and one that is gone is not: the server itself says whether it is at work for a session.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

import structlog

from cells.sql import queries

if TYPE_CHECKING:
    import asyncpg

log = structlog.get_logger()

# Quoted: the classes are generic for the type checker only.
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

# How long a session of a pool is waited for. All that it asks has time-outs of its own.
ACQUIRE_S = 5.0
# A session that the server says is at work is waited for no longer than this: a disk may be slow.
WORK_MAX_S = 40.0
ASK_TIMEOUT_S = 2.0
# Of questions that go through all of a table; of all others see where sessions are opened.
SCAN_TIMEOUT_S = 30.0

SQL = queries("cells.sql", "store.sql")


@asynccontextmanager
async def session_of(pool: Pool, pools: Sequence[Pool] = ()) -> AsyncIterator[Connection]:
    """A session of the pool. One that says nothing in time makes all of it, and of `pools`, suspect."""
    try:
        async with pool.acquire(timeout=ACQUIRE_S) as connection:
            yield connection  # type: ignore[misc]
    except TimeoutError:
        await suspect((pool, *pools))
        raise


async def suspect(pools: Iterable[Pool]) -> None:
    """Has their sessions opened anew before they are used: what one has not got, others would not get either."""
    for pool in pools:
        await pool.expire_connections()


@asynccontextmanager
async def at_work(seconds: float, is_working: Callable[[], Awaitable[bool]]) -> AsyncIterator[None]:
    """Raises TimeoutError in what is within after `seconds`, unless `is_working` says then that the server is at it.

    It is asked again each time that as much time has passed, and not at all where there is less to wait for.
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
    """Whether the server is at work for the session of that process, asked over a session of its own.

    One that waits for its client, or is not there, is not; nor is one of which the server says nothing.
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
