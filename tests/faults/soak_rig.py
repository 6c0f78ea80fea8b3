"""A cluster for the soak: a proxy on every way between its processes, one database beyond a proxy, one on a small disk.

us-east    its own PostgreSQL
eu-west    a PostgreSQL whose connections lead through a proxy
ap-tokyo   its own PostgreSQL, on a disk of DISK_MB where one can be mounted
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from lab.chaos.links import Mesh, Way
from lab.cluster import CELLS, Cluster
from lab.market import Market
from lab.member import Member
from server.cli.keys.authority import ROUTER
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.e2e.cluster import Town
from tests.faults.rig import tell_processes
from tests.integration.wire import Wire

NAMES = tuple(cell.name for cell in CELLS)
BEYOND_PROXY, ON_SMALL_DISK = "eu-west", "ap-tokyo"
DISK_MB = 400
START_S = 60.0

START = """
import asyncio, pathlib, sys
from server.shell.postgres.embedded import EmbeddedPostgres
asyncio.run(EmbeddedPostgres(pathlib.Path(sys.argv[1])).start())
"""


@dataclass(slots=True, kw_only=True)
class SoakCluster:
    town: Town
    mesh: Mesh
    # Between the router and each cell, by what is called: the router, or the cell.
    router_ways: dict[str, Way]
    wire: Wire
    small_disk: Path | None

    @property
    def members(self) -> list[Member]:
        return self.town.cluster.members

    def member(self, name: str) -> Member:
        return self.town.member(name)

    def tell(self, name: str, number: signal.Signals) -> None:
        pid = self.member(name).pid
        assert pid is not None
        os.kill(pid, number)

    async def killed(self, name: str) -> None:
        member = self.member(name)
        assert member.process is not None
        member.process.kill()
        await member.wait()

    def tell_database(self, name: str, number: signal.Signals) -> None:
        """All processes of the PostgreSQL of that member, its own collector of logs included."""
        if (pid := self.member(name).postgres.pid) is not None:
            tell_processes(pid, number)

    async def start_database(self, name: str) -> None:
        """Of the one that no process of ours keeps running. In a process of its own: a fork beside gRPC's threads."""
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", START, str(self.member(name).folder))
        assert await asyncio.wait_for(process.wait(), START_S) == 0

    def fill_disk(self) -> None:
        assert self.small_disk is not None
        with (self.small_disk / "ballast").open("wb") as ballast:
            try:
                while True:
                    ballast.write(bytes(1024 * 1024))
                    ballast.flush()
            except OSError:
                return

    def empty_disk(self) -> None:
        assert self.small_disk is not None
        (self.small_disk / "ballast").unlink()


@dataclass(slots=True)
class _Plan:
    mesh: Mesh
    ways: dict[str, Way]
    dsn: str = ""

    def __call__(self, folder: Path, ports: Sequence[int]) -> list[Member]:
        members = self.mesh.plan(folder, ports)
        router, cells = members[0], members[1:]
        self.ways[ROUTER].target = router.address
        for cell in cells:
            self.ways[cell.name].target = cell.address
            cell.settings["router"] = self.ways[ROUTER].address
            if cell.name == BEYOND_PROXY:
                cell.settings["dsn"] = self.dsn
        regions = {cell.name: cell.region for cell in CELLS}
        router.settings["cells"] = [f"{name}={regions[name]}={self.ways[name].address}" for name in NAMES]
        return members


@asynccontextmanager
async def soak_cluster(folder: Path) -> AsyncIterator[SoakCluster]:
    mesh, wire, ways = Mesh(), Wire(), {name: Way() for name in (ROUTER, *NAMES)}
    async with AsyncExitStack() as stack:
        disk = folder / ON_SMALL_DISK
        disk.mkdir(parents=True)
        small = await stack.enter_async_context(_mounted(disk))
        postgres = EmbeddedPostgres(folder / BEYOND_PROXY)
        stack.push_async_callback(postgres.stop, "immediate")
        dsn = await stack.enter_async_context(wire.listening(await postgres.database()))
        stack.push_async_callback(mesh.close)
        await mesh.listen()
        for way in ways.values():
            stack.push_async_callback(way.close)
            await way.listen()
        cluster = await stack.enter_async_context(Cluster(folder, plan=_Plan(mesh, ways, dsn)))
        market = await stack.enter_async_context(Market(cluster.router))
        yield SoakCluster(
            town=Town(cluster, market), mesh=mesh, router_ways=ways, wire=wire, small_disk=disk if small else None
        )


@asynccontextmanager
async def _mounted(disk: Path) -> AsyncIterator[bool]:
    """Whether a small disk could be mounted there."""
    command = ("mount", "-t", "tmpfs", "-o", f"size={DISK_MB}M", "tmpfs", str(disk))
    mounted = os.geteuid() == 0 and await (await asyncio.create_subprocess_exec(*command)).wait() == 0
    try:
        yield mounted
    finally:
        if mounted:
            await (await asyncio.create_subprocess_exec("umount", "-l", str(disk))).wait()
