"""A cell of another checkout of this repository, made, run and checked by its own code in its own .venv."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.bench.checks import CheckFailed
from tests.bench.cluster import CELL, DATABASE, Dataset, Side
from tests.bench.founding import commands_of
from tests.bench.measure import Bench

# What Member and `python` below run the checkout's programs with: its interpreter, its modules alone, the same process.
RUNNER = 'cd "$0" && shift && PYTHONPATH="$PWD:$PWD/protos" exec .venv/bin/python "$@"'
FOUND = """
import json, sys, uvloop
from server.__main__ import collect_garbage_seldom
from server.shell.observability.logging import configure_logging
from tests.bench.founding import found
cell, dsn, users, auctions = sys.argv[1:]
configure_logging("warning")
collect_garbage_seldom()
names = uvloop.run(found(cell, dsn, users=int(users), auctions=int(auctions), advance=lambda done: None))
print(json.dumps(names))
"""
CHECK = """
import asyncio, sys
from types import SimpleNamespace
from tests.bench.checks import check
asyncio.run(check(SimpleNamespace(dsn=lambda database: sys.argv[1]), SimpleNamespace(bids=int(sys.argv[2]))))
"""


@asynccontextmanager
async def checked_side(bench: Bench, checkout: Path) -> AsyncIterator[Side]:
    """Its books are checked at the end. Raises CheckFailed."""
    users, auctions = bench.scale.users, bench.scale.auctions
    async with bench.ground.postgres("other") as postgres:
        dsn = postgres.dsn(DATABASE)
        total = commands_of(users=users, auctions=auctions + 1)
        with bench.stage(f"a dataset of {checkout}", total):
            hot, *names = json.loads(await python(checkout, FOUND, CELL, dsn, str(users), str(auctions + 1)))
        dataset = Dataset(users=users, auctions=tuple(names), hot=hot)
        runner = ("sh", "-c", RUNNER, str(checkout))
        async with bench.ground.server("other-cell", postgres, runner=runner) as server:
            yield Side(dataset=dataset, server=server, postgres=postgres)
            with bench.stage(f"checking the books of {checkout}", 1):
                await python(checkout, CHECK, dsn, str(dataset.bids))


async def python(checkout: Path, program: str, *arguments: str) -> str:
    """The last line that the program prints."""
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", RUNNER, str(checkout), "python", "-c", program, *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, problem = await process.communicate()
    if process.returncode:
        raise CheckFailed(f"{checkout}: {problem.decode().strip()}")
    return said.decode().strip().rpartition("\n")[2]
