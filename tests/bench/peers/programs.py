"""The peers, each at work on the same machine: how to start it, have it place bids, and check what it stored."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

import grpc.aio

from lab.member import free_ports
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.bench.calls import SERVICE
from tests.bench.checks import CheckFailed, check
from tests.bench.cluster import Side, last_position
from tests.bench.load import METHODS, TIMEOUT_S, Plan, placed_in
from tests.bench.peers.work import CHECKED, TURN, Size
from tests.bench.processes import Generator, python

# Where `make bench-peers` installs the peers' packages.
PYTHON = Path("build/peers/bin/python")
START_S = 300.0


class PeerFailed(Exception):
    """A peer did not do its work, or did it wrongly. The message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """So many clients at once, each of which sends so many bids together (1: one by one) and waits for the answer."""

    name: str
    clients: int
    items: int = 1


class Peer(Protocol):
    @property
    def pids(self) -> tuple[int, ...]:
        """Of the processes whose CPU time is this peer's."""

    async def bids(self, mode: Mode, seconds: float) -> int:
        """Sends bids for so long; returns how many were accepted when all were answered."""

    async def check(self) -> None:
        """Raises PeerFailed or CheckFailed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramPeer:
    """A peer's program, which follows orders: work.serve."""

    process: Process
    pids: tuple[int, ...]

    async def bids(self, mode: Mode, seconds: float) -> int:
        return await self.order({"run": [mode.clients, mode.items, seconds]})

    async def check(self) -> None:
        await self.order({})

    async def order(self, what: object) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(what).encode() + b"\n")
        line = await self.process.stdout.readline()
        said = json.loads(line) if line else {"failed": "it ended"}
        if "failed" in said:
            raise PeerFailed(said["failed"])
        return int(said["placed"])


@dataclass(frozen=True, slots=True, kw_only=True)
class CellbookPeer:
    side: Side
    generator: Generator

    @property
    def pids(self) -> tuple[int, ...]:
        pids = (self.side.server.pid, self.side.postgres.pid, self.generator.process.pid)
        return tuple(pid for pid in pids if pid is not None)

    async def bids(self, mode: Mode, seconds: float) -> int:
        items = mode.items if mode.items > 1 else 0
        bids = self.side.dataset.spread(items, turn=TURN)
        plan = Plan(address=self.side.server.address, bids=bids, in_flight=mode.clients, seconds=seconds)
        result = await self.generator.run(plan)
        self.side.dataset.bids += result.placed
        return result.placed

    async def check(self) -> None:
        await self.repeat()
        await check(self.side.postgres, self.side.dataset)

    async def repeat(self) -> None:
        """Repeated bids are accepted, and change nothing."""
        request = next(self.side.dataset.spread(CHECKED, turn=TURN).calls())
        async with grpc.aio.insecure_channel(self.side.server.address) as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHODS[True])
            placed_in(await call(request, metadata=SERVICE, timeout=TIMEOUT_S), CHECKED, contested=False)
            self.side.dataset.bids += CHECKED
            stored = await last_position(self.side.postgres)
            placed_in(await call(request, metadata=SERVICE, timeout=TIMEOUT_S), CHECKED, contested=False)
        if await last_position(self.side.postgres) != stored:
            raise CheckFailed("repeated bids had an effect")


@asynccontextmanager
async def plpgsql(postgres: EmbeddedPostgres, size: Size) -> AsyncIterator[ProgramPeer]:
    await postgres.ensure_database("plpgsql")
    async with _running(
        "plpgsql", postgres.dsn("plpgsql"), size=size, server=postgres.pid, program=Path(sys.executable)
    ) as peer:
        yield peer


@asynccontextmanager
async def eventsourced(postgres: EmbeddedPostgres, size: Size) -> AsyncIterator[ProgramPeer]:
    await postgres.ensure_database("eventsourced")
    folder = parse_qs(urlsplit(postgres.dsn("eventsourced")).query)["host"][0]
    where = (folder, "eventsourced")
    async with _running("eventsourced", *where, size=size, server=postgres.pid) as peer:
        yield peer


@asynccontextmanager
async def tiger(binary: str, folder: Path, size: Size) -> AsyncIterator[ProgramPeer]:
    """One replica, on a file of its own."""
    file, address = str(folder / "0_0.tigerbeetle"), str(free_ports(1)[0])
    one = ("--cluster=0", "--replica=0", "--replica-count=1")
    made = await asyncio.create_subprocess_exec(binary, "format", *one, file, stderr=PIPE)
    problem = (await made.communicate())[1].decode()
    if made.returncode:
        raise PeerFailed(f"{binary} format: {problem.strip()}")
    server = await asyncio.create_subprocess_exec(
        binary, "start", f"--addresses={address}", file, stderr=asyncio.subprocess.DEVNULL, start_new_session=True
    )
    try:
        async with _running("tiger", address, size=size, server=server.pid) as peer:
            yield peer
    finally:
        if server.returncode is None:
            server.kill()
        await server.wait()


@asynccontextmanager
async def _running(
    module: str, *arguments: str, size: Size, server: int | None, program: Path = PYTHON
) -> AsyncIterator[ProgramPeer]:
    """Ready: its accounts and auctions are made."""
    async with python(f"tests.bench.peers.{module}", *arguments, program=str(program)) as process:
        peer = ProgramPeer(process=process, pids=tuple(pid for pid in (process.pid, server) if pid is not None))
        async with asyncio.timeout(START_S):
            await peer.order(asdict(size))
        yield peer
