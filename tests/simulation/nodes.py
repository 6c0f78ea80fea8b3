"""The processes of the simulation: of cells, of the router, and of the clients."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn, cast
from uuid import UUID

from cellbook.v1 import saga_pb2
from cells.buckets import Buckets
from cells.domain.audit.refusals import HomeNotVouched
from cells.domain.commands import OpenAccount
from cells.domain.decision import LedgerPolicy
from cells.domain.moves.commands import BeginMove
from cells.domain.moves.home import Home as CellHome
from cells.domain.moves.refusals import HomeChanged
from cells.domain.record import replace as replaced
from cells.domain.refusals import (
    AlreadyOpen,
    InProgress,
    Refused,
    RefusedByFailpoint,
    SagaNotFound,
    UserNotFound,
    WrongCell,
)
from cells.notices import Notice
from cells.requests import Outcome
from router.directory.registration import Accounts, Registration, open_command_id
from router.directory.topology import Cell as ListedCell
from router.directory.users import Directory, UserEntry, UserState
from router.moves.moves import Began, Moves
from router.moves.store import Move, MoveRequest, MoveStore
from router.refusals import CellUnavailable, MoveUnknown
from server.process.clock import CellClock
from server.shell.identity.principal import Principal
from server.shell.rpc import Metadata
from tests.doubles.clocks import SeededIds
from tests.doubles.failpoints import Failpoints
from tests.local_cells import build_cell, request
from tests.simulation.abuse import BATCH_MAX, WatchedQueue
from tests.simulation.network import NO_CLOCK, SimulatedDirectory, SimulatedPeers, Unanswered
from tests.simulation.storage import Connection
from tests.simulation.user_bounds import FLOWS_MAX, REFUSALS_AT_ONCE, REFUSALS_PER_S

if TYPE_CHECKING:
    from cells.store.ports import Store
    from router.moves.calls import MoveCalls
    from tests.simulation.loop import VirtualClock
    from tests.simulation.world import World

LEDGER_POLICY = LedgerPolicy(
    settlement_timeout_ms=4_000,
    bid_valid_ms=2_500,
    transfer_valid_ms=2_500,
    move_valid_ms=2_500,
    fee_bps=1_000,
    user_flows_max=FLOWS_MAX,
)


class Killed(BaseException):
    """This process has been killed."""


class CellNode:
    """One process of a cell. Its memory dies with it; its database does not."""

    def __init__(self, world: "World", cell: str, number: int) -> None:
        self._world = world
        self.place = cell
        self.name = f"{cell}/{number}"
        self.process = world.loop.process(self.name)
        self.clock: VirtualClock = world.clocks[cell]
        # The error of the wall clock when this process began to watch it.
        self.begun_offset_ms = self.clock.offset_ms
        # By its `__getattr__` a connection has all methods of the store.
        store = cast("Store", Connection(world.databases[cell], world, self.fall))
        chance = random.Random(f"{world.seed}/{self.name}")
        self.cell = build_cell(
            cell,
            store,
            peers=SimulatedPeers(world, self),
            directory=SimulatedDirectory(world, self),
            clock=self.clock,
            ids=SeededIds(self.clock, seed=chance.getrandbits(64)),
            policy=LEDGER_POLICY,
            notifier=Mail(world),
            failpoints=Fate(world, self),
            chance=chance,
        )
        if world.is_abused:
            writer = self.cell.writer
            writer.batch_max, writer.queue = BATCH_MAX, WatchedQueue(world.end)
            writer._decider.refusals = Buckets(per_s=REFUSALS_PER_S, holds_s=REFUSALS_AT_ONCE / REFUSALS_PER_S)
        self._wire = CellClock(time=self.cell.time)
        self.process.launch(self._run())

    async def _run(self) -> None:
        try:
            await self.cell.run()
        except Exception as error:  # noqa: BLE001 - it ends the story
            self._world.end(error)
        self._world.tell("{} has stepped down", self.name)
        self._world.revive_later(self.place)
        self.process.end()

    def admit(self, metadata: Metadata, caller: Principal) -> None:
        self._wire.received(metadata, caller)

    def outgoing(self) -> Metadata:
        return self._wire.outgoing()

    def die(self) -> None:
        self._world.tell("{} is killed", self.name)
        self.process.end()

    def fall(self) -> NoReturn:
        """Dies in the middle of its work; it is started again."""
        self.die()
        self._world.revive_later(self.place)
        raise Killed


class Fate(Failpoints):
    """Failpoints that strike at random."""

    def __init__(self, world: "World", node: CellNode) -> None:
        super().__init__()
        self._fate = world, node

    def hit(self, point: str, leg: str, direction: str) -> None:
        world, node = self._fate
        if world.chance.random() < world.weather.killed:
            world.tell("{} at {} {} {}", node.name, point, leg, direction)
            node.fall()

    def refuse(self, leg: str, direction: str) -> None:
        world, _ = self._fate
        if world.chance.random() < world.weather.refused:
            raise RefusedByFailpoint(leg=leg)

    async def around(self, leg: str, direction: str, take: Callable[[], Awaitable[Outcome]]) -> Outcome:
        self.refuse(leg, direction)
        outcome = await take()
        self.hit("after-commit", leg, direction)
        return outcome

    async def hold(self, leg: str, direction: str, point: str = "hold") -> None:
        """Does nothing: random delays are enough."""


class Mail:
    """Implements cells/ports.Notifier."""

    def __init__(self, world: "World") -> None:
        self._world = world

    async def notify(self, notice: Notice) -> str:
        await self._world.nap(self._world.chance.expovariate(1 / self._world.weather.message_s))
        if self._world.chance.random() < self._world.weather.mail_fails:
            raise ConnectionError("no database")
        return "QUEUED"


class RouterNode:
    """The router's own logic, on a directory in memory that outlives its process."""

    name = place = "router"

    def __init__(self, world: "World") -> None:
        self._world = world
        self.process = world.loop.process(self.name)
        directory, accounts = cast("Directory", KeptDirectory(world)), cast("Accounts", SimulatedAccounts(world, self))
        moves = cast("MoveStore", KeptMoves(world))
        self._registration = Registration(directory=directory, accounts=accounts, topology=world.topology)
        self._moves = Moves(
            store=moves,
            directory=directory,
            accounts=accounts,
            topology=world.topology,
            calls=cast("MoveCalls", SimulatedMoveCalls(world, self)),
        )

    async def register(self, user_id: UUID, residency: str) -> str:
        return (await self._registration.register(user_id, residency, timeout_s=4.0)).cell.name

    async def move(self, asked: MoveRequest, timeout_s: float) -> Began:
        return await self._moves.move(asked, timeout_s=timeout_s)

    async def home_of(self, user_id: UUID) -> CellHome | None:
        home = await KeptDirectory(self._world).find(user_id)
        return CellHome(home.cell.name, home.epoch) if home else None

    async def told(self, user_id: UUID, home: CellHome, residency: str | None, *, by: str) -> None:
        """Refused if that cell may not report it; the cell then retries. Raises HomeNotVouched."""
        await KeptDirectory(self._world).adopt(user_id, home, residency, by=by)
        known = self._world.homes.get(user_id)
        if known is None:
            raise UserNotFound(user_id=str(user_id))
        if known.epoch < home.epoch:
            raise HomeNotVouched(
                peer=by, user_id=str(user_id), epoch=home.epoch, cell=known.cell.name, known=known.epoch
            )

    def admit(self, metadata: Metadata, caller: Principal) -> None:
        """The router has no such clock."""

    def outgoing(self) -> Metadata:
        return NO_CLOCK


class KeptDirectory:
    """As router/directory/users.py, in memory."""

    def __init__(self, world: "World") -> None:
        self._world = world

    async def find(self, user_id: UUID) -> UserEntry | None:
        await self._world.nap(self._world.weather.store_s)
        return self._world.homes.get(user_id)

    async def add(self, user_id: UUID, cell: ListedCell, residency: str) -> UserEntry:
        await self._world.nap(self._world.weather.store_s)
        entry = UserEntry(
            user_id=user_id,
            cell=cell,
            epoch=1,
            residency=residency,
            state=UserState.OPENING,
            registered_residency=residency,
        )
        return self._world.homes.setdefault(user_id, entry)

    async def adopt(self, user_id: UUID, home: CellHome, residency: str | None, *, by: str) -> bool:
        """The next home is the one that the last home names."""
        await self._world.nap(self._world.weather.store_s)
        known, cell = self._world.homes.get(user_id), self._world.topology.now.cell(home.cell)
        if known is None or cell is None or not CellHome(known.cell.name, known.epoch).vouches(by, home.epoch):
            return False
        residency = known.residency if residency is None else residency
        self._world.homes[user_id] = replace(
            known, cell=cell, epoch=home.epoch, residency=residency, state=UserState.OPEN
        )
        return True

    async def mark_open(self, home: UserEntry) -> None:
        await self._world.nap(self._world.weather.store_s)
        known = self._world.homes[home.user_id]
        if known.epoch == home.epoch:
            self._world.homes[home.user_id] = replace(known, state=UserState.OPEN)


class KeptMoves:
    """As router/moves/store.py, in memory."""

    def __init__(self, world: "World") -> None:
        self._world = world

    async def find(self, principal: str, command_id: UUID) -> Move | None:
        await self._world.nap(self._world.weather.store_s)
        return self._world.moves.get((principal, command_id))

    async def add(self, move: Move) -> Move:
        await self._world.nap(self._world.weather.store_s)
        return self._world.moves.setdefault((move.request.principal, move.request.command_id), move)

    async def redirect(self, move: Move) -> None:
        await self.answer(move)

    async def answer(self, move: Move) -> None:
        await self._world.nap(self._world.weather.store_s)
        key = (move.request.principal, move.request.command_id)
        known = self._world.moves[key]
        if not (known.done or known.refusal):
            self._world.moves[key] = move


class SimulatedMoveCalls:
    """As router/moves/calls.py, over the simulated network."""

    def __init__(self, world: "World", router: RouterNode) -> None:
        self._world = world
        self._router = router

    async def begin(self, move: Move, timeout_s: float) -> bool:
        asked = move.request
        command = BeginMove(
            user_id=asked.user_id, to_cell=asked.to_cell, region=move.residency, from_epoch=move.from_epoch
        )
        begun = request(command, command_id=asked.command_id)
        begun = replaced(begun, user_id=asked.user_id, deadline_s=self._world.loop.time() + timeout_s)
        try:
            await self._world.network.call(
                self._router, move.from_cell, "begin move", lambda node: node.cell.execute(begun), timeout_s=timeout_s
            )
        except InProgress:
            return False
        except Unanswered as error:
            raise _unknown(move, str(error)) from error
        except Refused as error:
            if error.final or isinstance(error, WrongCell | HomeChanged):
                raise
            raise _unknown(move, error.message) from error
        return True

    async def saga(self, move: Move) -> saga_pb2.Saga | None:
        try:
            saga = await self._world.network.call(
                self._router, move.from_cell, "saga", lambda node: node.cell.saga(move.saga_id), timeout_s=2.0
            )
        except SagaNotFound:
            return None
        except (Refused, Unanswered) as error:
            raise _unknown(move, str(error)) from error
        state = saga_pb2.SagaState.Value(f"SAGA_STATE_{saga.state.state}")
        return saga_pb2.Saga(saga_id=str(move.saga_id), state=state, failure_reason=saga.state.failure_reason)


def _unknown(move: Move, problem: str) -> MoveUnknown:
    return MoveUnknown(user_id=str(move.request.user_id), cell=move.from_cell, problem=problem)


class SimulatedAccounts:
    """As router/accounts.py, over the simulated network."""

    def __init__(self, world: "World", router: RouterNode) -> None:
        self._world = world
        self._router = router

    async def open(self, home: UserEntry, *, timeout_s: float) -> None:
        command_id = open_command_id(home.user_id, home.epoch)
        asked = request(OpenAccount(user_id=home.user_id, home_epoch=home.epoch), command_id=command_id)
        try:
            await self._world.network.call(
                self._router, home.cell.name, "open account", lambda node: node.cell.execute(asked), timeout_s=timeout_s
            )
        except AlreadyOpen:
            return
        except (Refused, Unanswered) as error:
            raise CellUnavailable(user_id=str(home.user_id), cell=home.cell.name, problem=str(error)) from error
