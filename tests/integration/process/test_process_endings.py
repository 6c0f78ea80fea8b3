"""A process that was told to end ends, whatever hangs: real processes."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.process.test_start_failures import CELL, ROUTER, WITHIN_S
from tests.local_cells import until_async

IMPATIENT = """
from {module} import __main__ as program
from server.shell.hosting import process
process.BEYOND_GRACE_S = process.ENDING_LEAST_S = 2.0
program.main()
"""


@pytest.mark.parametrize("program", [CELL, ROUTER], ids=["cell", "router"])
async def test_a_process_ends_though_its_database_hangs(tmp_path: Path, program: tuple[str, ...]) -> None:
    """A commit that hangs kept it until somebody killed it. It ends within its bound, and says that it was by force."""
    postgres = EmbeddedPostgres(tmp_path / "database")
    await postgres.start()
    await postgres.ensure_database("cellbook")
    ready = tmp_path / "ready.json"
    module, *named = program
    flags = (*named, "--dsn", postgres.dsn("cellbook"), "--ready-file", str(ready), "--drain-grace-ms", "0")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", IMPATIENT.format(module=module), *flags, stderr=subprocess.PIPE
    )
    frozen = postgres.pid
    assert frozen is not None
    try:
        await until_async(lambda: asyncio.sleep(0, ready.exists()), timeout_s=WITHIN_S)
        freeze(frozen, signal.SIGSTOP)
        process.terminate()
        began_s = time.monotonic()
        async with asyncio.timeout(WITHIN_S):
            _, said = await process.communicate()
    finally:
        freeze(frozen, signal.SIGCONT)
        await postgres.stop("immediate")
    assert time.monotonic() - began_s < 6
    if program is ROUTER and process.returncode == 0:
        # It needs no word of its database to end in order.
        return
    assert process.returncode == 1
    line = said.decode().splitlines()[-1]
    assert line.removeprefix("python -m ").startswith(
        f"{module}: not ended 2 s after it was told to (does its database hang?)"
    )


def freeze(postmaster: int, how: signal.Signals) -> None:
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    for pid in (postmaster, *map(int, children)):
        os.kill(pid, how)


STUBBORN = """
import asyncio
from server.shell.hosting import process
process.BEYOND_GRACE_S, process.ENDING_LEAST_S = 0.3, 0.0
async def main():
    print("started", flush=True)
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass
process.run_process(main(), program="stubborn", drain_grace_ms=200)
"""


async def test_what_does_not_end_is_ended() -> None:
    """Whatever it is that swallows the end: half a second after SIGTERM here, with a line."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STUBBORN, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"started\n"
    process.terminate()
    async with asyncio.timeout(WITHIN_S):
        _, said = await process.communicate()
    assert process.returncode == 1
    assert said.decode().splitlines()[-1].startswith("stubborn: not ended 0 s after it was told to")
