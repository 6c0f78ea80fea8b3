"""A database that dies, and connections that are cut in COMMIT, under load: the cell goes on by itself."""

import asyncio
import signal
import time
from pathlib import Path

import pytest

from tests.faults.rig import (
    DATABASE,
    TERMINATE,
    Load,
    alone,
    check,
    database,
    loaded,
    node,
    power_cut,
    stubs,
    tell_processes,
)
from tests.integration.database import ask
from tests.integration.wire import COMMIT, Wire, once

pytestmark = [pytest.mark.faults, pytest.mark.slow]

CUTS = 5
# How much load there is to be between two faults.
SOME = 80
# After the end of a fault, of everything.
PROMISED_S = 10.0


async def test_a_database_that_dies_twice(tmp_path: Path) -> None:
    """As in a power cut, in the middle of the load: what was accepted is there, and the cell serves again unaided."""
    async with (
        database(tmp_path) as (_, dsn),
        alone(tmp_path, dsn) as cell,
        stubs(cell.address) as to,
        loaded(to) as load,
    ):
        for _ in range(2):
            await load.more(SOME)
            await power_cut(tmp_path / DATABASE)
            await load.more(SOME)
        await cell.becomes("SERVING")
        await load.end()
        await check(dsn, load)


async def test_all_sessions_are_ended_again_and_again(tmp_path: Path) -> None:
    """The cell serves again within seconds, each time: nothing of the fault outlives it."""
    async with (
        database(tmp_path) as (_, dsn),
        alone(tmp_path, dsn) as cell,
        stubs(cell.address) as to,
        loaded(to, clients=4) as load,
    ):
        for _ in range(3):
            await load.more(10)
            await ask(dsn, TERMINATE)
            began_s = time.monotonic()
            await load.more(10)
            assert time.monotonic() - began_s < PROMISED_S
        await load.end()
        await check(dsn, load)


async def test_a_cell_starts_its_own_database_again(tmp_path: Path) -> None:
    """Embedded, it is nobody else's to start: killed, with all its processes, it is back within seconds."""
    cell = node(tmp_path, "cell", "", data=str(tmp_path / "cell"))
    del cell.settings["dsn"]
    try:
        cell.start()
        await cell.becomes("SERVING")
        async with stubs(cell.address) as to, loaded(to, clients=4) as load:
            await load.more(10)
            pid = cell.postgres.pid
            assert pid is not None
            tell_processes(pid, signal.SIGKILL)
            began_s = time.monotonic()
            await load.more(10)
            assert time.monotonic() - began_s < PROMISED_S
            await load.end()
            assert cell.said("postgres_back")
            await check(await cell.dsn(), load)
    finally:
        await cell.end()
        await cell.postgres.stop("immediate")


@pytest.mark.parametrize("committed", [False, True])
async def test_connections_cut_in_commit(tmp_path: Path, committed: bool) -> None:  # noqa: FBT001 - parametrized
    """Before COMMIT arrives or before its answer does: which of the two it was is found out, and nothing is guessed."""
    wire = Wire()
    async with (
        database(tmp_path) as (_, dsn),
        wire.listening(dsn) as cut_dsn,
        alone(tmp_path, cut_dsn) as cell,
        stubs(cell.address) as to,
        loaded(to) as load,
    ):
        for _ in range(CUTS):
            await cut(wire, load, committed=committed)
        await load.end()
        assert cell.said("commit_resolved")
        assert cell.said(f'"committed": {str(committed).lower()}')
        await check(dsn, load)
        assert await load.told() == {"COMMAND_STATE_ACCEPTED": len(load.sent)}


async def cut(wire: Wire, load: Load, *, committed: bool) -> None:
    """Cuts one COMMIT, and waits until the load has gone on."""
    hit = asyncio.Event()
    cuts = once(COMMIT)

    def check_sent(sent: bytes) -> bool:
        passes = cuts(sent)
        if not passes:
            hit.set()
        return passes

    if committed:
        wire.after = check_sent
    else:
        wire.before = check_sent
    async with asyncio.timeout(30):
        await hit.wait()
    await load.more(SOME)
