"""Moves all users off a cell at a limited rate. The directory knows who is left, so no other state is needed."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import structlog

from cellbook.v1 import router_pb2 as pb
from cells.domain.refusals import Refused
from router.directory.placement import place
from router.directory.topology import ANY_REGION, Cell, CellState, LiveTopology
from router.directory.users import Directory
from router.moves.moves import Began, Moves
from router.moves.progress import move_to_proto
from router.moves.store import MoveRequest
from router.refusals import CellNotDraining, MoveNotFound, MoveUnknown, NoCellInRegion, NoSuchCell

log = structlog.get_logger()

RATE_PER_S = 10.0
PAGE = 200
# Concurrent moves. More of them go no faster, and each keeps its user waiting for longer.
MOVES_MAX = 8
TELL_S = 0.5
SLOW_S = 2.0
NOBODY = UUID(int=0)


@dataclass(slots=True, kw_only=True)
class Evacuation:
    """`run` works while its caller iterates over it."""

    moves: Moves
    directory: Directory
    topology: LiveTopology
    cell: str
    rate_per_s: float
    # The principal that ordered it.
    principal: str
    progress: pb.EvacuateCellResponse = field(default_factory=pb.EvacuateCellResponse)
    # User -> since when.
    _under_way: dict[UUID, float] = field(default_factory=dict)
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOVES_MAX))

    async def run(self) -> AsyncGenerator[pb.EvacuateCellResponse, None]:
        """Yields progress now and then, and at the end. Raises NoSuchCell, CellNotDraining, DirectoryUnavailable."""
        cell = self._cell()
        working = asyncio.create_task(self._passes(cell))
        try:
            while not working.done():
                self.progress.left = await self.directory.count_of(self.cell)
                await self._note_slowest()
                yield self.progress
                await asyncio.wait({working}, timeout=TELL_S)
            working.result()
            self.progress.left = await self.directory.count_of(self.cell)
            self.progress.done = True
            self.progress.ClearField("slowest")
            yield self.progress
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    def _cell(self) -> Cell:
        cell = self.topology.now.cell(self.cell)
        if cell is None:
            raise NoSuchCell(cell=self.cell)
        if cell.state is CellState.ACTIVE:
            raise CellNotDraining(cell=self.cell)
        return cell

    async def _passes(self, cell: Cell) -> None:
        """Repeats passes over the remaining users until a pass moves none."""
        while True:
            before = self.progress.moved
            await self._pass(cell)
            if self.progress.moved == before:
                return

    async def _pass(self, cell: Cell) -> None:
        after, last = NOBODY, False
        async with asyncio.TaskGroup() as group:
            while not last:
                users = await self.directory.users_of(self.cell, after, PAGE)
                for user_id in users:
                    await self._slots.acquire()
                    group.create_task(self._move(user_id, cell))
                    await asyncio.sleep(1 / self.rate_per_s)
                last = len(users) < PAGE
                after = users[-1] if users else after

    async def _move(self, user_id: UUID, cell: Cell) -> None:
        try:
            request = MoveRequest(user_id, await self._goal(user_id, cell), None, self.principal, uuid4())
            self._under_way[user_id] = time.monotonic()
            began = await self._followed(request)
        except Refused as refused:
            self._note(user_id, f"{refused.reason}: {refused.message}")
        else:
            if began.done:
                self.progress.moved += 1
            else:
                self._note(user_id, f"still under way, as saga {began.move.saga_id}")
        finally:
            self._under_way.pop(user_id, None)
            self._slots.release()

    async def _followed(self, request: MoveRequest) -> Began:
        """Waits until the move has ended, or makes no progress because its user's home does not answer."""
        began, copied = await self.moves.move(request, timeout_s=None), -1
        while not began.done:
            _, saga = await self.moves.saga_of(request.user_id)
            if saga is None or saga.copied.bytes <= copied:
                break
            copied = saga.copied.bytes
            began = await self.moves.move(request, timeout_s=None)
        return began

    async def _note_slowest(self) -> None:
        """The move that has been under way for longest, if it takes more than a moment."""
        self.progress.ClearField("slowest")
        user_id, began_s = next(iter(self._under_way.items()), (NOBODY, math.inf))
        if time.monotonic() - began_s >= SLOW_S:
            with suppress(MoveNotFound, MoveUnknown):
                self.progress.slowest.CopyFrom(move_to_proto(*await self.moves.saga_of(user_id), None))

    def _note(self, user_id: UUID, problem: str) -> None:
        self.progress.failed += 1
        self.progress.problem = f"user {user_id}: {problem}"
        log.warning("user_not_moved", cell=self.cell, problem=problem)

    async def _goal(self, user_id: UUID, cell: Cell) -> str:
        """Another cell in the user's region, or in the cell's region if the user has none. Raises NoCellInRegion."""
        home = await self.directory.find(user_id)
        bound = home.residency if home is not None else cell.region
        regions = (bound,) if bound else (cell.region, ANY_REGION)
        for region in regions:
            others = [other for other in self.topology.now.open_to_new_users(region) if other.name != self.cell]
            goal = place(user_id, others)
            if goal is not None:
                return goal.name
        raise NoCellInRegion(region=bound or cell.region)
