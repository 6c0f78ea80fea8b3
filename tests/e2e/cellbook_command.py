"""Runs the `cellbook` command as a person would: in a process of its own, looked at from outside."""

import asyncio
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from lab.cluster import CELLS
from server.shell.postgres.embedded import DATABASE, EmbeddedPostgres
from tests.invariants import check_all
from tests.local_cells import until_async

COMMAND = (sys.executable, "-m", "server.cli.main")
# E2E=secure: every cluster here with TLS and a proof of who calls. `make e2e-secure` does so.
SECURE = os.environ.get("E2E") == "secure"
STARTING = frozenset({"up", "demo", "replay"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    code: int
    stdout: str
    stderr: str


@dataclass(slots=True, kw_only=True)
class Running:
    """A command under way; `stdout` and `stderr` grow by `read_line`."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)

    async def read_line(self) -> str:
        assert self.process.stdout is not None
        line = (await self.process.stdout.readline()).decode()
        self.lines.append(line)
        return line

    async def end(self) -> Ended:
        stdout, stderr = await self.process.communicate()
        assert self.process.returncode is not None
        return Ended(code=self.process.returncode, stdout="".join(self.lines) + stdout.decode(), stderr=stderr.decode())


async def begin(*arguments: str | Path, temporary: Path) -> Running:
    """Starts the command, its temporary files in `temporary`, so that what it leaves behind can be seen."""
    secure = ["--secure"] if SECURE and arguments[0] in STARTING and "--secure" not in arguments else []
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *(str(argument) for argument in arguments),
        *secure,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    return Running(process=process)


async def run(*arguments: str | Path, temporary: Path) -> Ended:
    return await (await begin(*arguments, temporary=temporary)).end()


def processes_of(folder: Path) -> list[str]:
    """Command lines of all living processes, ours or not, that name `folder` or a path below it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if str(folder) in line and entry.parent.name != str(os.getpid()):
            found.append(line)
    return found


async def until_nothing_is_left(folder: Path) -> None:
    """Until the processes that name the folder have ended, and it is empty."""
    await until_async(lambda: asyncio.sleep(0, not processes_of(folder) and not any(folder.iterdir())), timeout_s=60)


async def check_kept(folder: Path, *, settled: bool = True) -> None:
    """All invariants, looked up in the databases that a cluster has left in its --data folder."""
    servers = {cell.name: EmbeddedPostgres(folder / cell.name) for cell in CELLS}
    try:
        for server in servers.values():
            await server.start()
        await check_all({name: server.dsn(DATABASE) for name, server in servers.items()}, settled=settled)
    finally:
        for server in servers.values():
            await server.stop()
