"""A router and three cells as processes of their own, each with its own PostgreSQL, in one data folder.

    DATA/{router,us-east,eu-west,ap-tokyo}/    one folder a process: settings.toml, its log, its database

Everything that was started is stopped, however this ends: first by SIGTERM, then by a kill; a PostgreSQL that its
owner left behind is stopped through its data folder. If this process itself is killed, the reaper does it.
"""

import asyncio
import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from lab.member import START_TIMEOUT_S, ClusterError, Member, ending, free_ports, is_free
from lab.play import side_by_side
from lab.reaper import Reaper
from server.cli.access import Access, access_by_keys
from server.cli.keys.authority import HOSTS, Authority
from server.cli.keys.cluster import ROUTER, make_keys, settings_of
from server.cli.options import LOOPBACK
from server.cli.progress import Progress

_WATCH_S = 0.2
KEYS = "keys"

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class CellPlan:
    name: str
    region: str


CELLS = (
    CellPlan(name="us-east", region="us"),
    CellPlan(name="eu-west", region="eu"),
    CellPlan(name="ap-tokyo", region="ap"),
)


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
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        self._start_timeout_s = start_timeout_s
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
                self.access = _secure(self.members, self.folder / KEYS, public=f"{LOOPBACK}:{ports[-1]}")
            self._reaper = Reaper()
            if self._kept is None:
                self._reaper.inherit(self.folder)
            for member in self.members:
                self._reaper.watch(pid=member.start(), folder=member.folder)
            await side_by_side(self.members, lambda member: member.wait_until_ready(self._start_timeout_s))
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


def _fixed_ports(base: int, count: int) -> list[int]:
    ports = list(range(base, base + count))
    for port in ports:
        if not is_free(port):
            raise ClusterError(f"port {port} of {LOOPBACK} is taken: stop what uses it, or choose others: --port-base")
    return ports


def _secure(members: Sequence[Member], folder: Path, *, public: str) -> Access:
    """Gives all processes, the router first, their keys; returns how to call them. Raises KeysInvalid."""
    authority = Authority(folder)
    make_keys(authority, [member.name for member in members[1:]], HOSTS)
    for member in members:
        member.settings.update(settings_of(authority, member.name))
    members[0].settings["public_listen"] = public
    return access_by_keys(folder)


@asynccontextmanager
async def started(cluster: Cluster, progress: Progress) -> AsyncIterator[Cluster]:
    """The running cluster; progress is shown while it starts."""
    with progress.stage("starting a router and three cells, each with its PostgreSQL", 0):
        await cluster.__aenter__()
    try:
        yield cluster
    finally:
        await cluster.stop()
