"""The bench's own processes: the load generator and the echo server."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

from tests.bench.load import LoadFailed, Plan, Result

# An answer has a latency for each call.
LINE_BYTES_MAX = 64 * 1024 * 1024


@dataclass(slots=True, kw_only=True)
class Generator:
    process: Process

    async def run(self, plan: Plan) -> Result:
        """Raises LoadFailed where a call was not accepted."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(asdict(plan)).encode() + b"\n")
        line = await self.process.stdout.readline()
        if not line:
            raise LoadFailed("the load generator ended")
        said = json.loads(line)
        if "failed" in said:
            raise LoadFailed(said["failed"])
        return Result(**said)


@asynccontextmanager
async def generator(nice: int = 0) -> AsyncIterator[Generator]:
    async with python("tests.bench.load", str(nice)) as process:
        yield Generator(process=process)


@asynccontextmanager
async def echo(answer_bytes: int) -> AsyncIterator[str]:
    """The address of a server that echoes."""
    async with python("tests.bench.echo", str(answer_bytes)) as process:
        assert process.stdout is not None
        yield (await process.stdout.readline()).decode().strip()


@asynccontextmanager
async def python(*arguments: str, program: str = sys.executable) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        program,
        "-m",
        *arguments,
        stdin=PIPE,
        stdout=PIPE,
        limit=LINE_BYTES_MAX,
        # Ctrl-C in the terminal is for us alone.
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
