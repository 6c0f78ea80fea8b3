"""A pass over a cell's tables in a child process, because a replay occupies a core.

The child reads its task from standard input, a line of JSON, and writes its progress to standard output, a line each,
and its result last. Its input stays open while its parent lives; the child exits when it closes.
"""

import asyncio
import contextlib
import gc
import os
import sys
from asyncio.subprocess import PIPE, Process
from dataclasses import dataclass

import msgspec
import uvloop

from cells.audit.reconcile.findings import Order, Progress, Report, Tell
from cells.audit.reconcile.passes import DirectPasses
from cells.domain.record import Struct, field
from cells.domain.refusals import Fact, Refused, Unavailable, refusal
from cells.store.sessions import Connection
from server.shell.observability.logging import configure_logging
from server.shell.postgres import database
from server.shell.postgres.database import CELL_ROLE, OWNER_ROLE

# The cell's own work comes first.
NICE = 10
# A report names up to ten thousand rows of each kind.
LINE_BYTES_MAX = 64 * 1024 * 1024
END_TIMEOUT_S = 5.0
GARBAGE_THRESHOLD = 50_000


class _Task(Struct, frozen=True, kw_only=True):
    # Arguments of `direct_passes`.
    logins: dict[str, str]
    order: Order


class _Said(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of the child's: its progress, or what the pass came to."""

    progress: Progress | None = None
    report: Report | None = None
    # The reason of a refusal, and its facts.
    refused: str = ""
    facts: dict[str, Fact] = field(default_factory=dict)


def direct_passes(dsn: str, cell: str, owner_dsn: str = "") -> DirectPasses:
    """Runs within this process. If `owner_dsn` is empty, `dsn` is used."""

    async def connect(by: str, role: str) -> Connection:
        # Queries over a whole table take their time.
        return await database.connect(by, role=role, application=f"cellbook/{cell}/audit", command_timeout_s=None)

    return DirectPasses(
        cell=cell, connect=lambda: connect(dsn, CELL_ROLE), connect_owner=lambda: connect(owner_dsn or dsn, OWNER_ROLE)
    )


@dataclass(slots=True, kw_only=True)
class ChildPasses:
    """Runs each pass in a child process."""

    dsn: str
    cell: str
    # The login that may become the owner of the tables, for migrations; empty: the same as `dsn`.
    owner_dsn: str = ""

    async def run(self, order: Order, tell: Tell) -> Report:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "server.audit.process", stdin=PIPE, stdout=PIPE, limit=LINE_BYTES_MAX
        )
        try:
            assert child.stdin is not None  # noqa: S101 - for the type checker
            logins = {"cell": self.cell, "dsn": self.dsn, "owner_dsn": self.owner_dsn}
            child.stdin.write(msgspec.json.encode(_Task(logins=logins, order=order)) + b"\n")
            return await _heard(child, tell)
        finally:
            await _ended(child)


async def _heard(child: Process, tell: Tell) -> Report:
    assert child.stdout is not None  # noqa: S101 - as above
    async for line in child.stdout:
        said = msgspec.json.decode(line, type=_Said)
        if said.refused:
            raise refusal(said.refused, said.facts)
        if said.report is not None:
            return said.report
        if said.progress is not None:
            tell(said.progress)
    raise Unavailable(problem=f"the process of the pass ended with {await child.wait()} and no word")


async def _ended(child: Process) -> None:
    """The child exits when its input closes; otherwise it is killed."""
    if child.stdin is not None:
        child.stdin.close()
    try:
        async with asyncio.timeout(END_TIMEOUT_S):
            await child.wait()
    except TimeoutError:
        child.kill()
        await child.wait()


# --- within the child -----------------------------------------------------------------------------------------------


async def work(task: _Task) -> None:
    passes = direct_passes(**task.logins)
    try:
        report = await passes.run(task.order, lambda progress: _say(_Said(progress=progress)))
    except Refused as error:
        _say(_Said(refused=error.reason, facts=error.facts))
    else:
        _say(_Said(report=report))


def _say(said: _Said) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(said) + b"\n")
    sys.stdout.flush()


async def working() -> None:
    reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    task = asyncio.create_task(work(msgspec.json.decode(await reader.readline(), type=_Task)))
    parent = asyncio.create_task(reader.read())
    await asyncio.wait([task, parent], return_when=asyncio.FIRST_COMPLETED)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def main() -> None:
    # Standard output is reserved for messages to the parent.
    configure_logging("warning")
    os.nice(NICE)
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD, *gc.get_threshold()[1:])
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(working())


if __name__ == "__main__":
    main()
