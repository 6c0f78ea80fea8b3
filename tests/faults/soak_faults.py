"""What strikes the soak's cluster: how each fault begins, and how it ends."""

import asyncio
import random
import resource
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from server.cli.keys.authority import ROUTER
from server.shell.settings.addresses import parse_address
from tests.faults.soak_rig import BEYOND_PROXY, NAMES, ON_SMALL_DISK, SoakCluster

HOLD_S = 5.0
SLOW_S = 0.3
CONNECTIONS = 30
EMBEDDED = tuple(name for name in NAMES if name != BEYOND_PROXY)

End = Callable[[], Awaitable[None]]


async def at_once() -> None:
    """The fault's beginning was its end."""


@dataclass(slots=True)
class Faults:
    """Each begins a fault and gives back what ends it, and how long it lasts."""

    cluster: SoakCluster
    random: random.Random
    _held: list[socket.socket] = field(default_factory=list)

    def all(self) -> dict[str, Callable[[], Awaitable[tuple[End, float]]]]:
        faults: dict[str, Callable[[], Awaitable[tuple[End, float]]]] = {
            "kill -9 of a cell": self.kill_cell,
            "kill -9 of the router": self.kill_router,
            "SIGSTOP of a cell": self.stop_cell,
            "SIGSTOP of a cell's PostgreSQL": self.stop_database,
            "SIGSTOP of the router's PostgreSQL": self.stop_router_database,
            "kill -9 of a cell's PostgreSQL": self.kill_database,
            "kill -9 of the router's PostgreSQL": self.kill_router_database,
            "immediate restart of a PostgreSQL": self.restart_database,
            "pg_terminate_backend of all sessions": self.terminate_all,
            "power cut of all": self.power_cut,
            "half-open: between two cells": self.forget_cells,
            "half-open: router and cells": self.forget_router,
            "half-open: cell and database": self.forget_database,
            "cut between two cells": self.cut,
            "slow links": self.slow,
            "file descriptors used up": self.use_up_files,
        }
        if self.cluster.small_disk is not None:
            faults["disk full"] = self.fill_disk
        return faults

    async def kill_cell(self) -> tuple[End, float]:
        return await self._kill(self.random.choice(NAMES))

    async def kill_router(self) -> tuple[End, float]:
        return await self._kill(ROUTER)

    async def _kill(self, name: str) -> tuple[End, float]:
        await self.cluster.killed(name)

        async def end() -> None:
            self.cluster.member(name).start()

        return end, 1.0

    async def stop_cell(self) -> tuple[End, float]:
        name = self.random.choice(NAMES)
        self.cluster.tell(name, signal.SIGSTOP)

        async def end() -> None:
            self.cluster.tell(name, signal.SIGCONT)

        return end, HOLD_S

    async def stop_database(self) -> tuple[End, float]:
        return await self._stop_database(self.random.choice(NAMES))

    async def stop_router_database(self) -> tuple[End, float]:
        return await self._stop_database(ROUTER)

    async def _stop_database(self, name: str) -> tuple[End, float]:
        self.cluster.tell_database(name, signal.SIGSTOP)

        async def end() -> None:
            self.cluster.tell_database(name, signal.SIGCONT)

        return end, HOLD_S

    async def kill_database(self) -> tuple[End, float]:
        self.cluster.tell_database(self.random.choice(EMBEDDED), signal.SIGKILL)
        return at_once, 0

    async def kill_router_database(self) -> tuple[End, float]:
        self.cluster.tell_database(ROUTER, signal.SIGKILL)
        return at_once, 0

    async def restart_database(self) -> tuple[End, float]:
        """Of the one that nobody keeps running: it is away for a while."""
        self.cluster.tell_database(BEYOND_PROXY, signal.SIGQUIT)

        async def end() -> None:
            await self.cluster.start_database(BEYOND_PROXY)

        return end, HOLD_S

    async def terminate_all(self) -> tuple[End, float]:
        for name in NAMES:
            connection = await asyncpg.connect(await self.cluster.member(name).dsn(), timeout=10)
            try:
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
                )
            finally:
                await connection.close(timeout=10)
        return at_once, 0

    async def power_cut(self) -> tuple[End, float]:
        for name in (ROUTER, *NAMES):
            self.cluster.tell(name, signal.SIGKILL)
            self.cluster.tell_database(name, signal.SIGKILL)
        await asyncio.gather(*(member.wait() for member in self.cluster.members))

        async def end() -> None:
            for member in self.cluster.members:
                member.start()
            await self.cluster.start_database(BEYOND_PROXY)

        return end, 1.0

    async def forget_cells(self) -> tuple[End, float]:
        one, other = self.random.sample(NAMES, 2)
        for way in self.cluster.mesh.between(one, other):
            way.forget()
        return at_once, 0

    async def forget_router(self) -> tuple[End, float]:
        for way in self.cluster.router_ways.values():
            way.forget()
        return at_once, 0

    async def forget_database(self) -> tuple[End, float]:
        self.cluster.wire.forget()
        return at_once, 0

    async def cut(self) -> tuple[End, float]:
        self.cluster.mesh.cut(*self.random.sample(NAMES, 2))
        return self._mend, HOLD_S

    async def slow(self) -> tuple[End, float]:
        for way in self.cluster.mesh.ways.values():
            way.delay_s = SLOW_S
        return self._mend, HOLD_S

    async def _mend(self) -> None:
        self.cluster.mesh.mend()

    async def use_up_files(self) -> tuple[End, float]:
        """A cell may open no other file; strangers ask for connections."""
        member = self.cluster.member(self.random.choice(NAMES))
        pid, address = member.pid, parse_address(member.address)
        assert pid is not None
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len([*Path(f"/proc/{pid}/fd").iterdir()]), before[1]))
        for _ in range(CONNECTIONS):
            with suppress(OSError):
                self._held.append(socket.create_connection((address.host, address.port), timeout=0.1))

        async def end() -> None:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
            while self._held:
                self._held.pop().close()

        return end, HOLD_S

    async def fill_disk(self) -> tuple[End, float]:
        await asyncio.to_thread(self.cluster.fill_disk)

        async def end() -> None:
            self.cluster.empty_disk()
            if self.cluster.member(ON_SMALL_DISK).ended() is not None:
                self.cluster.member(ON_SMALL_DISK).start()

        return end, HOLD_S
