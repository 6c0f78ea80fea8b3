"""A router and three cells as processes of their own, each with its own PostgreSQL, in one data folder.

    DATA/{router,us-east,eu-west,ap-tokyo}/    one folder a process: settings.toml, its log, its database

Everything that was started is stopped, however this ends: first by SIGTERM, then by a kill; a PostgreSQL that its
owner left behind is stopped through its data folder. If this process itself is killed, the reaper does it.
"""

import asyncio
import fcntl
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Self, TypeVar

from server.cli.access import Access
from server.cli.keys.cluster import secure
from server.cli.reaper import Reaper
from server.shell.postgres.embedded import EmbeddedPostgres

LOOPBACK = "127.0.0.1"
DEFAULT_PORT_BASE = 7400
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 20.0
LOG_TAIL_LINES = 25
_POLL_S = 0.02
_WATCH_S = 0.2
# Below the range from which systems take the ports of outgoing connections, so none of these is taken by chance.
_FREE_PORTS = range(20_000, 32_000)
_FREE_PORT_ATTEMPTS = 1000
# Set only here: a CELLBOOK_DSN meant for something else would give all four processes one database.
_OWN_SETTINGS = (
    "cell", "region", "listen", "dsn", "data", "router", "peers", "cells", "ready_file", "config",
    "public_listen", "tls_cert", "tls_key", "tls_ca", "jwt_keys", "jwt_issuer", "jwt_audience",
)  # fmt: skip

Result = TypeVar("Result")


class ClusterError(Exception):
    """The cluster did not start or did not stay up. The message says what to look at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellPlan:
    name: str
    region: str


CELLS = (
    CellPlan(name="us-east", region="us"),
    CellPlan(name="eu-west", region="eu"),
    CellPlan(name="ap-tokyo", region="ap"),
)
ROUTER = "router"
KEYS = "keys"
DATABASE = "cellbook"


@dataclass(slots=True, kw_only=True)
class Member:
    """One process of the cluster."""

    name: str
    module: str
    address: str
    folder: Path
    settings: dict[str, str | dict[str, str] | list[str]]
    # Runs the process, for example in its own network. It must exec, so that the process keeps its id.
    runner: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def ready_file(self) -> Path:
        return self.folder / "ready.json"

    @property
    def postgres(self) -> EmbeddedPostgres:
        return EmbeddedPostgres(self.folder)

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None else None

    @property
    def metrics(self) -> str:
        """The metrics address of a member that is ready."""
        return str(json.loads(self.ready_file.read_text())["metrics"])

    async def dsn(self) -> str:
        """The DSN of the database of a member that is ready."""
        postgres = self.postgres
        await postgres.start()
        return postgres.dsn(DATABASE)

    def set_failpoints(self, *names: str) -> None:
        """At its next start the process has these faults: lab/failpoints.py."""
        self.module = "lab.cell"
        self.settings["failpoints"] = ",".join(names)

    def start(self) -> int:
        """Starts the process and returns its id."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ready_file.unlink(missing_ok=True)
        config = self.folder / "settings.toml"
        config.write_text(_toml({**self.settings, "ready_file": str(self.ready_file)}))
        with self.log.open("ab") as log:
            # Not asyncio's: if that were cancelled midway, an untracked process would be left.
            self.process = subprocess.Popen(
                [*self.runner, sys.executable, "-P", "-m", self.module, "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                # Ctrl-C in the terminal must reach only this process, which stops the members in order.
                start_new_session=True,
            )
        return self.process.pid

    def ended(self) -> int | None:
        """The exit code, once the process has ended."""
        return self.process.poll() if self.process is not None else None

    async def wait(self) -> int:
        while (code := self.ended()) is None:  # noqa: ASYNC110 - what is awaited is another process
            await asyncio.sleep(_POLL_S)
        return code

    async def wait_until_ready(self, deadline_s: float) -> None:
        """Raises ClusterError when the process ends first or the deadline passes."""
        while not self.ready_file.exists():
            if (code := self.ended()) is not None:
                raise self.failure(f"ended with {ending(code)} before it was ready")
            if time.monotonic() > deadline_s:
                raise self.failure(f"was not ready within {START_TIMEOUT_S:.0f} s")
            await asyncio.sleep(_POLL_S)

    async def stop(self) -> None:
        """Stops it by SIGTERM, then by a kill, then stops its database. Safe to call in any state."""
        if self.process is not None and self.ended() is None:
            self.process.terminate()
            try:
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await self.wait()
            except TimeoutError:
                self.kill()
                await self.wait()
        await self.postgres.stop()
        self.ready_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """Kills the process and its group. Its PostgreSQL is not in that group: see stop."""
        if self.process is not None and self.ended() is None:
            os.killpg(self.process.pid, signal.SIGKILL)

    def failure(self, what: str) -> ClusterError:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        tail = "\n".join(f"    {line}" for line in lines[-LOG_TAIL_LINES:]) or "    (empty)"
        return ClusterError(f"{self.name} {what}. The end of its log, {self.log}:\n{tail}")


class Cluster:
    """The four processes. `data` None: a temporary folder, which is removed when the cluster stops.

    With `secure`, all processes and their callers must prove their identity.

    Raises:
        ClusterError: on entering, when a port is taken, the folder is in use, or a process does not come up.
    """

    def __init__(
        self,
        data: Path | None,
        *,
        port_base: int | None,
        plan: Callable[[Path, Sequence[int]], list[Member]] | None = None,
        secure: bool = False,
    ) -> None:
        self._kept = data
        self._secure = secure
        # How to call its processes.
        self.access = Access()
        self._plan = plan or four
        self._port_base = port_base
        self._lock_fd = -1
        self._reaper: Reaper | None = None
        self.folder = Path()
        self.members: list[Member] = []

    @property
    def router(self) -> str:
        return self.members[0].address

    @property
    def public(self) -> str:
        """The address of a secure router for callers with a token and no certificate."""
        return str(self.members[0].settings["public_listen"])

    @property
    def keys(self) -> Path | None:
        """The folder with all keys, if the cluster is secure."""
        return self.folder / KEYS if self._secure else None

    async def __aenter__(self) -> Self:
        # The last one is the router's, for callers without a certificate.
        count = 1 + len(CELLS) + self._secure
        ports = free_ports(count) if self._port_base is None else _fixed_ports(self._port_base, count)
        self.folder = self._folder()
        try:
            self.members = self._plan(self.folder, ports)
            if self._secure:
                self.access = secure(self.members, self.folder / KEYS, public=f"{LOOPBACK}:{ports[-1]}")
            deadline_s = time.monotonic() + START_TIMEOUT_S
            self._reaper = Reaper()
            if self._kept is None:
                self._reaper.inherit(self.folder)
            for member in self.members:
                self._reaper.watch(pid=member.start(), folder=member.folder)
            await _all_or_first_failure(member.wait_until_ready(deadline_s) for member in self.members)
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stops all that was started. If cancelled meanwhile, it kills instead, and still waits for the end."""
        stops = (member.stop() for member in self.members)
        stopping = asyncio.ensure_future(asyncio.gather(*stops, return_exceptions=True))
        cancelled = False
        while not stopping.done():
            try:
                await asyncio.shield(stopping)
            except asyncio.CancelledError:
                cancelled = True
                for member in self.members:
                    member.kill()
        self._leave_folder()
        if self._reaper is not None:
            self._reaper.dismiss()
            self._reaper = None
        for problem in stopping.result():
            if isinstance(problem, BaseException):
                raise problem
        if cancelled:
            raise asyncio.CancelledError

    async def while_alive(self, work: Coroutine[None, None, Result]) -> Result:
        """The result of `work`. Raises ClusterError as soon as one of the processes ends unasked."""
        working, watching = asyncio.ensure_future(work), asyncio.ensure_future(self.death())
        try:
            await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                raise watching.result()
            return working.result()
        finally:
            for task in (working, watching):
                task.cancel()
            await asyncio.wait((working, watching))

    async def death(self) -> ClusterError:
        """Returns when one of the processes has ended unasked."""
        while True:
            for member in self.members:
                if (code := member.ended()) is not None:
                    return member.failure(f"has ended unasked, with {ending(code)}")
            await asyncio.sleep(_WATCH_S)

    def _folder(self) -> Path:
        if self._kept is None:
            return Path(tempfile.mkdtemp(prefix="cellbook-"))
        try:
            self._kept.mkdir(parents=True, exist_ok=True)
            self._lock_fd = os.open(self._kept / "cluster.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock_fd)
            raise ClusterError(f"{self._kept} is in use by another cellbook up, demo or replay") from None
        except OSError as error:
            raise ClusterError(f"the data folder {self._kept} cannot be used: {error.strerror}") from error
        return self._kept.absolute()

    def _leave_folder(self) -> None:
        if self._kept is None:
            shutil.rmtree(self.folder, ignore_errors=True)
        elif self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


def ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def four(folder: Path, ports: Sequence[int]) -> list[Member]:
    """The router first, then the cells; every cell knows the router and the others."""
    addresses = [f"{LOOPBACK}:{port}" for port in ports[: 1 + len(CELLS)]]
    cells = dict(zip((cell.name for cell in CELLS), addresses[1:], strict=True))
    router = Member(
        name=ROUTER,
        module="router",
        address=addresses[0],
        folder=folder / ROUTER,
        settings={
            "listen": addresses[0],
            "metrics": f"{LOOPBACK}:0",
            "data": str(folder / ROUTER),
            "cells": [f"{cell.name}={cell.region}={cells[cell.name]}" for cell in CELLS],
        },
    )
    return [router, *(_cell(folder, cell, addresses[0], cells) for cell in CELLS)]


def _cell(folder: Path, cell: CellPlan, router: str, cells: dict[str, str]) -> Member:
    return Member(
        name=cell.name,
        module="server",
        address=cells[cell.name],
        folder=folder / cell.name,
        settings={
            "cell": cell.name,
            "region": cell.region,
            "listen": cells[cell.name],
            "metrics": f"{LOOPBACK}:0",
            "data": str(folder / cell.name),
            "router": router,
            "peers": {name: address for name, address in cells.items() if name != cell.name},
        },
    )


async def _all_or_first_failure(waits: Iterable[Coroutine[None, None, None]]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for wait in waits:
                group.create_task(wait)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


def _fixed_ports(base: int, count: int) -> list[int]:
    ports = list(range(base, base + count))
    for port in ports:
        if not _is_free(port):
            raise ClusterError(f"port {port} of {LOOPBACK} is taken: stop what uses it, or choose others: --port-base")
    return ports


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on. Raises ClusterError."""
    free = filter(_is_free, random.sample(_FREE_PORTS, _FREE_PORT_ATTEMPTS))
    if len(found := list(islice(free, count))) == count:
        return found
    raise ClusterError(f"no {count} free ports among {_FREE_PORTS.start} to {_FREE_PORTS.stop - 1}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _environment() -> dict[str, str]:
    own = {f"CELLBOOK_{name.upper()}" for name in _OWN_SETTINGS}
    kept = {name: value for name, value in os.environ.items() if name.upper() not in own}
    # Our own import path and (-P) not the current folder, which may contain a `server` of its own.
    return {**kept, "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _toml(settings: dict[str, str | dict[str, str] | list[str]]) -> str:
    """Strings, lists and tables of strings in JSON notation, which TOML reads the same way."""
    flat = [f"{name} = {json.dumps(value)}" for name, value in settings.items() if not isinstance(value, dict)]
    tables = [
        f"\n[{name}]\n" + "\n".join(f"{json.dumps(key)} = {json.dumps(text)}" for key, text in value.items())
        for name, value in settings.items()
        if isinstance(value, dict)
    ]
    return "# Written at each start.\n" + "\n".join([*flat, *tables]) + "\n"
