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
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from lab.member import START_TIMEOUT_S, ClusterError, Member, ending, free_ports, is_free
from lab.play import side_by_side
from lab.reaper import Reaper
from server.cli.access import PLAIN, Access, access_by_keys
from server.cli.keys.authority import HOSTS, ROUTER, Authority, Settings, make_keys, settings_of
from server.cli.report import stage
from server.shell.settings.addresses import LOOPBACK

_WATCH_S = 0.2
KEYS = "keys"

Result = TypeVar("Result")


class CellPlan(NamedTuple):
    name: str
    region: str


CELLS = (CellPlan("us-east", "us"), CellPlan("eu-west", "eu"), CellPlan("ap-tokyo", "ap"))


@dataclass(slots=True, eq=False)
class Cluster:
    """The four processes. `data` None: a temporary folder, which is removed when the cluster stops.

    With `secure`, all processes and their callers must prove their identity.

    Raises:
        ClusterError: on entering, when a port is taken, the folder is in use, or a process does not come up.
    """

    data: Path | None
    _: KW_ONLY
    port_base: int | None = None
    plan: Callable[[Path, Sequence[int]], list[Member]] | None = None
    secure: bool = False
    # Also the console, if it is installed.
    with_console: bool = False
    start_timeout_s: float = START_TIMEOUT_S
    # How to call its processes.
    access: Access = field(default=PLAIN, init=False)
    folder: Path = field(default=Path(), init=False)
    # The router and the cells.
    members: list[Member] = field(default_factory=list, init=False)
    console: Member | None = field(default=None, init=False)
    _left: ExitStack = field(default_factory=ExitStack, init=False)
    _reaper: Reaper | None = field(default=None, init=False)

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
        return self.folder / KEYS if self.secure else None

    @property
    def processes(self) -> list[Member]:
        return [*self.members, *([self.console] if self.console is not None else [])]

    async def __aenter__(self) -> Self:
        # The last ones are the router's, for callers without a certificate, and the console's.
        count = 1 + len(CELLS) + self.secure + self.with_console
        ports = free_ports(count) if self.port_base is None else _fixed_ports(self.port_base, count)
        self.folder = self._folder()
        try:
            self.members = (self.plan or four)(self.folder, ports)
            if self.secure:
                self.access = _secure(self.members, self.folder / KEYS, public=f"{LOOPBACK}:{ports[1 + len(CELLS)]}")
            if self.with_console:
                self.console = _console(self.folder, f"{LOOPBACK}:{ports[-1]}", self.router, self.keys)
            self._reaper = Reaper()
            if self.data is None:
                self._reaper.inherit(self.folder)
            with stage("starting a router and three cells, each with its PostgreSQL"):
                for member in self.processes:
                    self._reaper.watch(member.folder, pid=member.start())
                await side_by_side(self.processes, lambda member: member.wait_until_ready(self.start_timeout_s))
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stops all that was started. If cancelled meanwhile, it kills instead, and still waits for the end."""
        stops = (member.stop() for member in self.processes)
        stopping = asyncio.ensure_future(asyncio.gather(*stops, return_exceptions=True))
        cancelled = False
        while not stopping.done():
            try:
                await asyncio.shield(stopping)
            except asyncio.CancelledError:
                cancelled = True
                for member in self.processes:
                    member.kill()
        self._left.close()
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
            for member in self.processes:
                if (code := member.ended()) is not None:
                    return member.failure(f"has ended unasked, with {ending(code)}")
            await asyncio.sleep(_WATCH_S)

    def _folder(self) -> Path:
        if self.data is None:
            folder = Path(tempfile.mkdtemp(prefix="cellbook-"))
            self._left.callback(shutil.rmtree, folder, ignore_errors=True)
            return folder
        try:
            self.data.mkdir(parents=True, exist_ok=True)
            lock_fd = os.open(self.data / "cluster.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._left.callback(os.close, lock_fd)
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._left.close()
            raise ClusterError(f"{self.data} is in use by another cellbook up, demo or replay") from None
        except OSError as error:
            raise ClusterError(f"the data folder {self.data} cannot be used: {error.strerror}") from error
        return self.data.absolute()


def four(folder: Path, ports: Sequence[int]) -> list[Member]:
    """The router first, then the cells; every cell knows the router and the others."""
    router, *addresses = (f"{LOOPBACK}:{port}" for port in ports[: 1 + len(CELLS)])
    cells = {cell.name: address for cell, address in zip(CELLS, addresses, strict=True)}
    listed = [f"{cell.name}={cell.region}={cells[cell.name]}" for cell in CELLS]
    members = [_member(folder, ROUTER, "router", router, {"cells": listed})]
    for cell in CELLS:
        peers = {name: address for name, address in cells.items() if name != cell.name}
        settings: Settings = {"cell": cell.name, "region": cell.region, "router": router, "peers": peers}
        members.append(_member(folder, cell.name, "server", cells[cell.name], settings))
    return members


def _member(folder: Path, name: str, module: str, address: str, settings: Settings) -> Member:
    shared: Settings = {"listen": address, "metrics": f"{LOOPBACK}:0", "data": str(folder / name)}
    return Member(name=name, module=module, address=address, folder=folder / name, settings={**settings, **shared})


def _console(folder: Path, address: str, router: str, keys: Path | None) -> Member | None:
    """None: it is not installed."""
    if find_spec("starlette") is None:
        return None
    settings: Settings = {"listen": address, "router": router, **({"keys": str(keys)} if keys is not None else {})}
    where = folder / "console"
    return Member(name="console", module="server.console", address=address, folder=where, settings=settings)


def _fixed_ports(base: int, count: int) -> list[int]:
    ports = list(range(base, base + count))
    if taken := [port for port in ports if not is_free(port)]:
        raise ClusterError(f"port {taken[0]} of {LOOPBACK} is taken: stop what uses it, or choose others: --port-base")
    return ports


def _secure(members: Sequence[Member], folder: Path, *, public: str) -> Access:
    """Gives all processes, the router first, their keys; returns how to call them. Raises KeysInvalid."""
    authority = Authority(folder)
    make_keys(authority, [member.name for member in members[1:]], HOSTS)
    for member in members:
        member.settings.update(settings_of(authority, member.name))
    members[0].settings["public_listen"] = public
    return access_by_keys(folder)
