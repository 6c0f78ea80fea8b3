"""Where faults strike: a warm cluster, a settlement over three cells, one thing that goes wrong on its way."""

import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cellbook.v1 import auction_pb2, saga_pb2
from cells.domain.sagas.settlement import SETTLEMENT_LEGS
from lab.chaos.links import Mesh
from lab.cluster import CELLS, Cluster
from lab.market import Market, Person, Won
from lab.member import Member
from tests.doubles.cell import set_failpoints
from tests.e2e.cluster import AUCTION_CELL, FUNDS_MINOR, SELLER_CELL, WINNER_CELL, Town
from tests.faults.rig import power_cut
from tests.integration.database import connected
from tests.local_cells import until, until_async

CELL_OF = {"winner_cell": WINNER_CELL, "auction_cell": AUCTION_CELL, "seller_cell": SELLER_CELL}
WHERE = {spec.leg: CELL_OF[spec.at] for spec in SETTLEMENT_LEGS}
LEGS = tuple(spec.leg for spec in SETTLEMENT_LEGS if not spec.best_effort)
# Legs whose compensation is asked for once the pivot was refused.
UNDONE = LEGS[: LEGS.index("ownership")]
REMOTE = tuple(leg for leg in LEGS if WHERE[leg] != AUCTION_CELL)
PIVOT = "ownership"
# Of a settlement that is to be turned back by its deadline: well within an attempt.
SHORT_MS = 1_500
PATIENCE_S = 60.0
BEAT = "SELECT beat FROM head"
ENDS = {saga_pb2.SAGA_STATE_COMPLETED, saga_pb2.SAGA_STATE_COMPENSATED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A leg, on its way there or on the way back."""

    leg: str
    direction: str = "action"

    @property
    def cell(self) -> str:
        return WHERE[self.leg]

    def __str__(self) -> str:
        return f"{self.leg}/{self.direction}"


class Matrix(Town):
    """A town whose links can be cut, and whose failpoints can be set while it runs."""

    def __init__(self, cluster: Cluster, market: Market, mesh: Mesh) -> None:
        super().__init__(cluster, market)
        self.mesh = mesh

    def set(self, cell: str, *places: str) -> None:
        """All failpoints of a cell, at once; none: all is well."""
        _failpoints(self.member(cell)).write_text("".join(f"{place}\n" for place in places))

    async def on_its_way(self, place: Place, *, timeout_ms: int = 0) -> Won:
        """A settlement that is closed, and will come by the place: on the way back where that is asked for."""
        if place.direction == "compensation":
            self.add(AUCTION_CELL, f"refuse/{PIVOT}/action")
        won = await self.won(str(place), bids=1, timeout_ms=timeout_ms)
        await self.market.close(won.auction)
        return won

    def add(self, cell: str, *places: str) -> None:
        file = _failpoints(self.member(cell))
        before = file.read_text() if file.exists() else ""
        self.set(cell, *before.splitlines(), *places)

    def drop(self, cell: str, place: str) -> None:
        file = _failpoints(self.member(cell))
        self.set(cell, *(line for line in file.read_text().splitlines() if line != place))

    @asynccontextmanager
    async def held(self, point: str, place: Place) -> AsyncIterator[Won]:
        """A settlement that its leg's cell holds there meanwhile, before or after its commit."""
        self.add(place.cell, f"{point}/{place}")
        seen = self.lines(place.cell)
        won = await self.on_its_way(place)
        await until(lambda: any("held" in line and point in line for line in self.lines(place.cell)[len(seen) :]))
        yield won
        self.drop(place.cell, f"{point}/{place}")

    def lines(self, cell: str) -> list[str]:
        return self.member(cell).log.read_text().splitlines()

    async def settles(self, won: Won, *, back: bool = False) -> None:
        """Once nothing is wrong any more it comes to its only end, every cent where it belongs, nothing twice."""
        self.calm()
        state = auction_pb2.AUCTION_STATE_SETTLEMENT_FAILED if back else auction_pb2.AUCTION_STATE_SETTLED
        await self.ended(won, state)
        await (self.assert_rolled_back(won) if back else self.assert_paid(won))
        await self.check()

    def calm(self) -> None:
        self.mesh.mend()
        for cell in CELLS:
            if cell.name != AUCTION_CELL:
                self.set(cell.name)
        # What was refused stays refused: it is why the settlement turned back.
        kept = [line for line in _lines(self.member(AUCTION_CELL)) if line.startswith("refuse/")]
        self.set(AUCTION_CELL, *kept)

    async def power_cut(self, cell: str) -> None:
        """Ends the cell's PostgreSQL as a power cut does, and starts it again."""
        await power_cut(self.member(cell).folder)

    async def kill(self, cell: str) -> None:
        """Kill -9, and another process for it, on the database that it leaves behind."""
        member = self.member(cell)
        assert member.process is not None
        member.process.kill()
        await member.wait()
        member.start()

    def stop(self, cell: str) -> Callable[[], None]:
        """SIGSTOP; what is given back lets it go on."""
        pid = self.member(cell).pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        return lambda: os.kill(pid, signal.SIGCONT)

    async def beats(self, cell: str, count: int) -> None:
        """Until so many more are in the database: at its leisure a cell writes nothing else."""
        async with connected(await self.member(cell).dsn()) as connection:
            wanted = count + await connection.fetchval(BEAT)
            await until_async(lambda: connection.fetchval(BEAT), lambda beat: beat >= wanted, timeout_s=PATIENCE_S)

    async def tried(self, won: Won) -> None:
        """Until something of it has come to nothing, or it waits for a cell that does not answer."""

        async def so() -> bool:
            saga = await self.saga(won)
            return saga.attempts > 0 or bool(saga.last_error or saga.waits_for_cell)

        await until_async(so, timeout_s=PATIENCE_S)

    async def is_at(self, won: Won, place: Place) -> None:
        """Until the leg is the next one, there or back."""

        async def so() -> bool:
            saga = await self.saga(won)
            back = saga.state == saga_pb2.SAGA_STATE_COMPENSATING
            wanted = saga_pb2.LEG_STATE_DONE if back else saga_pb2.LEG_STATE_PENDING
            legs = reversed(saga.legs) if back else saga.legs
            due = next((leg.leg for leg in legs if leg.state == wanted), "")
            return back is (place.direction == "compensation") and due == place.leg

        await until_async(so, timeout_s=PATIENCE_S)

    async def deadline(self, won: Won) -> None:
        """Until the settlement's has passed."""
        saga = await self.saga(won)
        await until(lambda: time.time_ns() // 1_000_000 > saga.deadline_ms, timeout_s=PATIENCE_S)

    async def over(self, won: Won) -> None:
        """Until it has ended, either way."""
        await until_async(lambda: self.saga(won), lambda found: found.state in ENDS, timeout_s=PATIENCE_S)

    async def somebody(self, cell: str) -> Person:
        return await self.market.register("somebody", cell)

    async def rich(self, cell: str) -> Person:
        """Somebody with money: the cell takes commands."""
        return await self.market.person("somebody", cell, FUNDS_MINOR)


def _failpoints(member: Member) -> Path:
    return member.folder / "failpoints"


def _lines(member: Member) -> list[str]:
    file = _failpoints(member)
    return file.read_text().splitlines() if file.exists() else []


@asynccontextmanager
async def matrix(folder: Path, settings: Mapping[str, str] | None = None) -> AsyncIterator[Matrix]:
    """A cluster with a proxy on every way between its cells."""
    mesh = Mesh()
    await mesh.listen()

    def plan(data: Path, ports: Sequence[int]) -> list[Member]:
        members = mesh.plan(data, ports)
        for member in members[1:]:
            member.settings.update(settings or {})
            set_failpoints(member, f"@{_failpoints(member)}")
        return members

    try:
        async with Cluster(folder, plan=plan) as cluster, Market(cluster.router) as market:
            yield Matrix(cluster, market, mesh)
    finally:
        await mesh.close()
