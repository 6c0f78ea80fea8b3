"""The database's machine is lost under load, and its synchronous replica takes over: nothing acknowledged is lost."""

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest

from server.cli.doctor.database import examine
from server.cli.doctor.findings import State
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.faults.rig import CELL, DATABASE, check, database, loaded, node, running, stubs
from tests.local_cells import until_async

pytestmark = [pytest.mark.faults, pytest.mark.slow]

SURVIVES = "survives the server's loss"

# From processes of their own: a fork beside gRPC's threads may crash.
REPLICATE = """
import asyncio, pathlib, sys
from server.shell.postgres.embedded import EmbeddedPostgres
from server.shell.postgres.host import host_for

async def replicate() -> None:
    primary, replica = (EmbeddedPostgres(pathlib.Path(each)) for each in sys.argv[1:])
    await primary.start()
    host = host_for(primary.cluster)
    replica.data.mkdir()
    host.own(replica.data)
    source = primary.dsn("postgres")
    code, said = host.run(["pg_basebackup", "-D", replica.cluster, "-d", source, "-R", "-c", "fast"], timeout_s=60)
    assert code == 0, said
    await replica.start()

asyncio.run(replicate())
"""
LOSE = """
import asyncio, pathlib, sys
from server.shell.postgres.embedded import EmbeddedPostgres
asyncio.run(EmbeddedPostgres(pathlib.Path(sys.argv[1])).stop("immediate"))
"""


async def run(script: str, *folders: Path) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, *map(str, folders))
    async with asyncio.timeout(90):
        assert await process.wait() == 0


async def told(dsn: str, *queries: str) -> None:
    connection = await asyncpg.connect(dsn, timeout=10)
    for query in queries:
        await connection.execute(query)
    await connection.close(timeout=10)


async def survives(dsn: str) -> State:
    """What the doctor says of it."""
    return next(each.state for each in await examine(dsn, where="", cell=CELL) if each.check == SURVIVES)


async def test_nothing_acknowledged_is_lost_with_the_database(tmp_path: Path) -> None:
    """Set as the doctor wants it, and it says when it is so: before, without the replica, and after."""
    async with database(tmp_path) as (_, dsn), AsyncExitStack() as stack:
        assert await survives(dsn) is State.WARN
        stack.push_async_callback(run, LOSE, tmp_path / "replica")
        await run(REPLICATE, tmp_path / DATABASE, tmp_path / "replica")
        await told(dsn, "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'", "SELECT pg_reload_conf()")

        async def replicated() -> bool:
            return await survives(dsn) is State.OK

        await until_async(replicated)
        replica = EmbeddedPostgres(tmp_path / "replica")
        await replica.start()
        new_dsn = replica.dsn("cellbook")
        before, after = node(tmp_path, "before", dsn), node(tmp_path, "after", new_dsn)
        stack.push_async_callback(after.end)
        await stack.enter_async_context(running(before))
        async with stubs(before.address, after.address) as to, loaded(to) as load:
            await load.more()
            await run(LOSE, tmp_path / DATABASE)
            before.kill()
            await told(new_dsn, "SELECT pg_promote()")
            after.start()
            await load.more()
            await load.end()
            await check(new_dsn, load)
        assert await survives(new_dsn) is State.WARN
