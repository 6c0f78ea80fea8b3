"""The database's machine is lost under load, and its synchronous replica takes over: nothing acknowledged is lost."""

import asyncio
import random
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import UUID

import grpc
import grpc.aio
import pytest

from cellbook.v1 import ledger_pb2
from server.cli.doctor.database import examine
from server.cli.doctor.findings import State
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.faults.rig import (
    AUDITOR,
    BANK,
    CELL,
    DATABASE,
    PATIENCE_S,
    UNKNOWN,
    Load,
    alone,
    check,
    database,
    deposit,
    insist,
    loaded,
    node,
    open_user,
    running,
    stubs,
)
from tests.integration.database import ask
from tests.integration.services_rig import Calls
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
    for query in queries:
        await ask(dsn, query)


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
        await until_async(lambda: survives(dsn), lambda found: found is State.OK)
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


# --- deadlines that end in the middle of commits ---


CLIENTS = 8
# Of those given up by their callers, at least so many were done all the same.
WANTED = 10
ACCEPTED, IN_PROGRESS, NOT_FOUND = "COMMAND_STATE_ACCEPTED", "COMMAND_STATE_IN_PROGRESS", "NOT_FOUND"


async def test_a_deadline_in_a_commit_leaves_nothing_unknown(tmp_path: Path) -> None:
    """Done or not, GetCommand tells; sent again under its id, each has happened once."""
    async with (
        database(tmp_path) as (_, dsn),
        alone(tmp_path, dsn) as cell,
        stubs(cell.address) as to,
        loaded(to) as load,
    ):
        told: Counter[str] = Counter()
        clients = [asyncio.create_task(impatient(to, load, seed, told)) for seed in range(CLIENTS)]
        await asyncio.gather(*clients)
        await load.end()
        print(f"given up by their callers: {dict(told)}")
        await check(dsn, load)
        assert await load.told() == {ACCEPTED: len(load.sent)}


async def impatient(to: Calls, load: Load, seed: int, told: Counter[str]) -> None:
    """Gives each call a part of the time that one takes just now, until enough were cut in the middle."""
    # Seeded: which part it is says nothing of when the commit is, so that all moments of it are hit.
    part = random.Random(seed)
    user_id = await open_user(to)
    give_up_s = time.monotonic() + PATIENCE_S
    while told[ACCEPTED] < WANTED:
        assert time.monotonic() < give_up_s, f"no deadline ended in a commit: {dict(told)}"
        begun_s = time.monotonic()
        await insist(to.send, deposit(user_id), BANK)
        took_s = time.monotonic() - begun_s
        paid = deposit(user_id)
        load.sent.add(UUID(paid.command_id))
        try:
            await to.send(paid, by=BANK, timeout_s=took_s * part.uniform(0.2, 1.2))
        except grpc.aio.AioRpcError as error:
            if error.code() not in UNKNOWN:
                raise
            told[await end_of(to, paid.command_id)] += 1
            await insist(to.send, paid, BANK)
        load.accepted.add(UUID(paid.command_id))


async def end_of(to: Calls, command_id: str) -> str:
    """What the cell says of it, once it is not under way any more."""
    asked = ledger_pb2.GetCommandRequest(command_id=command_id)
    while True:
        try:
            answer = await to.send(asked, by=AUDITOR, timeout_s=10)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return NOT_FOUND
        state = ledger_pb2.CommandState.Name(answer.state)
        if state != IN_PROGRESS:
            return state
        await asyncio.sleep(0.002)
