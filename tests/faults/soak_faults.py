"""What strikes the soak's cluster: how each fault begins, and how it ends."""

import asyncio
import random
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from server.cli.keys.authority import ROUTER
from server.shell.settings.addresses import parse_address
from tests.faults.rig import TERMINATE
from tests.faults.soak_rig import BEYOND_PROXY, NAMES, ON_SMALL_DISK, SoakCluster
from tests.integration.database import ask

HOLD_S = 5.0
SLOW_S = 0.3
CONNECTIONS = 30
EMBEDDED = tuple(name for name in NAMES if name != BEYOND_PROXY)

Fault = Callable[[], AbstractAsyncContextManager[None]]


@dataclass(slots=True)
class Faults:
    """Each is a context manager, within which it lasts."""

    cluster: SoakCluster
    random: random.Random

    def all(self) -> dict[str, tuple[Fault, float]]:
        """By name, with how long each is to last: none, where its beginning is its end."""
        faults: dict[str, tuple[Fault, float]] = {
            "kill -9 of a cell": (lambda: self.killed(self.any_cell), 1.0),
            "kill -9 of the router": (lambda: self.killed(ROUTER), 1.0),
            "SIGSTOP of a cell": (self.stopped, HOLD_S),
            "SIGSTOP of a cell's PostgreSQL": (lambda: self.database_stopped(self.any_cell), HOLD_S),
            "SIGSTOP of the router's PostgreSQL": (lambda: self.database_stopped(ROUTER), HOLD_S),
            "kill -9 of a cell's PostgreSQL": (lambda: self.database_killed(self.random.choice(EMBEDDED)), 0),
            "kill -9 of the router's PostgreSQL": (lambda: self.database_killed(ROUTER), 0),
            "immediate restart of a PostgreSQL": (self.database_away, HOLD_S),
            "pg_terminate_backend of all sessions": (self.sessions_terminated, 0),
            "power cut of all": (self.power_cut, 1.0),
            "half-open: between two cells": (self.cells_forgotten, 0),
            "half-open: router and cells": (self.router_forgotten, 0),
            "half-open: cell and database": (self.database_forgotten, 0),
            "cut between two cells": (self.cut, HOLD_S),
            "slow links": (self.slow, HOLD_S),
            "file descriptors used up": (self.files_used_up, HOLD_S),
        }
        if self.cluster.small_disk is not None:
            faults["disk full"] = (self.disk_full, HOLD_S)
        return faults

    @property
    def any_cell(self) -> str:
        return self.random.choice(NAMES)

    @asynccontextmanager
    async def killed(self, name: str) -> AsyncIterator[None]:
        await self.cluster.killed(name)
        yield
        self.cluster.member(name).start()

    @asynccontextmanager
    async def stopped(self) -> AsyncIterator[None]:
        name = self.any_cell
        self.cluster.tell(name, signal.SIGSTOP)
        yield
        self.cluster.tell(name, signal.SIGCONT)

    @asynccontextmanager
    async def database_stopped(self, name: str) -> AsyncIterator[None]:
        self.cluster.tell_database(name, signal.SIGSTOP)
        yield
        self.cluster.tell_database(name, signal.SIGCONT)

    @asynccontextmanager
    async def database_killed(self, name: str) -> AsyncIterator[None]:
        self.cluster.tell_database(name, signal.SIGKILL)
        yield

    @asynccontextmanager
    async def database_away(self) -> AsyncIterator[None]:
        """The one that nobody keeps running."""
        self.cluster.tell_database(BEYOND_PROXY, signal.SIGQUIT)
        yield
        await self.cluster.start_database(BEYOND_PROXY)

    @asynccontextmanager
    async def sessions_terminated(self) -> AsyncIterator[None]:
        for name in NAMES:
            await ask(await self.cluster.member(name).dsn(), TERMINATE)
        yield

    @asynccontextmanager
    async def power_cut(self) -> AsyncIterator[None]:
        for name in (ROUTER, *NAMES):
            self.cluster.tell(name, signal.SIGKILL)
            self.cluster.tell_database(name, signal.SIGKILL)
        await asyncio.gather(*(member.wait() for member in self.cluster.members))
        yield
        for member in self.cluster.members:
            member.start()
        await self.cluster.start_database(BEYOND_PROXY)

    @asynccontextmanager
    async def cells_forgotten(self) -> AsyncIterator[None]:
        for way in self.cluster.mesh.between(*self.random.sample(NAMES, 2)):
            way.forget()
        yield

    @asynccontextmanager
    async def router_forgotten(self) -> AsyncIterator[None]:
        for way in self.cluster.router_ways.values():
            way.forget()
        yield

    @asynccontextmanager
    async def database_forgotten(self) -> AsyncIterator[None]:
        self.cluster.wire.forget()
        yield

    @asynccontextmanager
    async def cut(self) -> AsyncIterator[None]:
        self.cluster.mesh.cut(*self.random.sample(NAMES, 2))
        yield
        self.cluster.mesh.mend()

    @asynccontextmanager
    async def slow(self) -> AsyncIterator[None]:
        for way in self.cluster.mesh.ways.values():
            way.delay_s = SLOW_S
        yield
        self.cluster.mesh.mend()

    @asynccontextmanager
    async def files_used_up(self) -> AsyncIterator[None]:
        """A cell may open no other file; strangers ask for connections."""
        member, strangers = self.cluster.member(self.any_cell), list[socket.socket]()
        pid, address = member.pid, parse_address(member.address)
        assert pid is not None
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len([*Path(f"/proc/{pid}/fd").iterdir()]), before[1]))
        for _ in range(CONNECTIONS):
            with suppress(OSError):
                strangers.append(socket.create_connection((address.host, address.port), timeout=0.1))
        yield
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        for stranger in strangers:
            stranger.close()

    @asynccontextmanager
    async def disk_full(self) -> AsyncIterator[None]:
        await asyncio.to_thread(self.cluster.fill_disk)
        yield
        self.cluster.empty_disk()
        if self.cluster.member(ON_SMALL_DISK).ended() is not None:
            self.cluster.member(ON_SMALL_DISK).start()
