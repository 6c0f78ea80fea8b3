"""Cells within the test's own process: the real cell, writer, engine and timers, calling each other directly."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID, uuid4

from cells.audit.accesses import AccessLog
from cells.audit.history.trace import Answer, Finder, Search, Silent
from cells.audit.reconcile.replay_state import AuditStateStore
from cells.cell import Cell
from cells.domain.account.barrier import command_id
from cells.domain.commands import Command, CreateAuction, Deposit, OpenAccount, RecordAccesses, RegisterAsset
from cells.domain.decision import LedgerPolicy
from cells.domain.moves.commands import TellHome
from cells.domain.moves.home import Home
from cells.domain.refusals import Refused, Unknown, WrongCell
from cells.domain.sagas.leg import LegMark, LegResult
from cells.domain.time.hlc import HybridLogicalClock
from cells.domain.values import Direction, Money, Ref
from cells.failpoints import NoFailpoints
from cells.moves.history_exporter import HistoryExporter
from cells.moves.user_bundle import UserBundle
from cells.notices import Notice, Notifier
from cells.outcomes import Asker
from cells.requests import CommandRequest, Lane, Outcome
from cells.sagas.engine import SagaEngine
from cells.sagas.executions import SagaExecutions
from cells.sagas.native import NativeEngine
from cells.sagas.steps import Steps
from cells.store.ports import Clock, Directory, Ids, LegCall, Peers, PeerUnknown, Store
from cells.store.postgres import PostgresStore
from cells.time.celltime import CellTime
from cells.time.clocks import SystemClock, UuidV7Ids
from cells.writer.leadership import Leadership
from cells.writer.timers import Timers
from cells.writer.writer import Writer
from server.process.clock import CellClock, sent_ms
from server.shell.identity.principal import Principal, Role
from server.shell.rpc import Metadata
from server.wire.legs import leg_command
from tests.doubles.contacts import NoContacts
from tests.doubles.history import MemoryTraceLookups
from tests.doubles.store import MemoryStore

T = TypeVar("T")
WAIT_S = 10.0
# Is told of everybody's commands.
READER = Asker("auditor/test", reads_all=True)


async def until(condition: Callable[[], object], *, timeout_s: float = WAIT_S) -> None:
    """Waits for a condition, not for a time."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event
            await asyncio.sleep(0.002)


async def until_async(
    ask: Callable[[], Awaitable[T]], holds: Callable[[T], object] = bool, *, timeout_s: float = WAIT_S
) -> T:
    """The same for what has to be asked for; returns the answer that holds."""
    async with asyncio.timeout(timeout_s):
        while not holds(answer := await ask()):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)
    return answer


@dataclass(slots=True)
class DirectPeers:
    """Peers without a network in between."""

    cells: dict[str, Cell] = field(default_factory=dict)
    # Cells that cannot be reached just now.
    cut: set[str] = field(default_factory=set)
    directory: "FixedDirectory | None" = None

    async def request_leg(self, cell: str, call: LegCall, direction: Direction, *, timeout_s: float) -> LegMark:
        if cell in self.cut:
            raise PeerUnknown(f"{cell} is cut off")
        if isinstance(call.action, TellHome):
            return self._told(call.action, call)
        return await self._deliver(cell, call, direction, self._says(call.orchestrator))

    async def _deliver(self, cell: str, call: LegCall, direction: Direction, said: Metadata) -> LegMark:
        leg_request = request_of_leg(call, cell, direction, said)
        self._tell(call.orchestrator, cell, said)
        try:
            outcome = await self.cells[cell].execute(leg_request)
        except Refused as error:
            self._tell(cell, call.orchestrator)
            if error.final or isinstance(error, WrongCell):
                raise
            raise PeerUnknown(error.message, answered=not isinstance(error, Unknown)) from error
        self._tell(cell, call.orchestrator)
        mark: LegMark = outcome.result
        return mark

    async def bring(self, cell: str, bundle: UserBundle, *, timeout_s: float) -> dict[str, int]:
        if cell in self.cut:
            raise PeerUnknown(f"{cell} is cut off")
        return await self.cells[cell].user_import.staged(bundle)

    def _told(self, action: TellHome, call: LegCall) -> LegMark:
        """The directory goes by the highest epoch. It has no log: nothing but the asking itself is the effect."""
        if self.directory is not None:
            self.directory.tell(action.user_id, Home(action.cell, action.epoch))
        return LegMark(LegResult.APPLIED, call.causation_id)

    def _says(self, cell: str) -> Metadata:
        """What goes along with every call and its answer."""
        return CellClock(time=self.cells[cell].time).outgoing()

    def _tell(self, one: str, other: str, said: Metadata | None = None) -> None:
        said = self._says(one) if said is None else said
        CellClock(time=self.cells[other].time).received(said, Principal(role=Role.PEER, name=one))


@dataclass(frozen=True, slots=True)
class DirectAuditPeers:
    """The neighbours of `here`, all of them on stores in memory, as an audit asks them."""

    here: str
    peers: DirectPeers

    async def names(self) -> tuple[Sequence[str], str]:
        return [name for name in self.peers.cells if name != self.here], ""

    async def find(self, cell: str, search: Search, limit: int) -> Answer:
        if cell in self.peers.cut:
            raise Silent(f"{cell} is cut off")
        store = self.peers.cells[cell].store
        assert isinstance(store, MemoryStore)
        return await Finder(cell, MemoryTraceLookups(store)).find(search, limit)


@dataclass(slots=True)
class FixedDirectory:
    homes: dict[UUID, str] = field(default_factory=dict)
    epochs: dict[UUID, int] = field(default_factory=dict)

    async def find(self, user_id: UUID) -> Home | None:
        cell = self.homes.get(user_id)
        return Home(cell, self.epochs.get(user_id, 1)) if cell is not None else None

    def tell(self, user_id: UUID, home: Home) -> None:
        if home.epoch > self.epochs.get(user_id, 1):
            self.homes[user_id], self.epochs[user_id] = home

    async def knows_cell(self, cell: str) -> bool:
        return cell != "nowhere"


class Mailbox:
    """A notifier that only remembers."""

    def __init__(self) -> None:
        self.sent: list[tuple[UUID, str]] = []

    async def notify(self, notice: Notice) -> str:
        self.sent.append((notice.user_id, notice.notice))
        return "QUEUED"


class NothingWrong:
    """The quarantine of a cell that nothing has audited."""

    async def load(self) -> dict[Ref, str]:
        return {}


@dataclass(slots=True, kw_only=True)
class LocalCell(Cell):
    """A cell with what runs it, which the composition root keeps beside it."""

    # The engine and the timers first.
    tasks: list[Any] = field(default_factory=list)
    leadership: Leadership = field(init=False)

    def __post_init__(self) -> None:
        Cell.__post_init__(self)
        self.leadership = Leadership(writer=self.writer, prepare=self.load_quarantine, tasks=self.tasks)

    async def run(self) -> None:
        await self.leadership.run()

    def stop(self) -> None:
        self.leadership.stop()

    @property
    def engine(self) -> SagaEngine:
        engine: SagaEngine = self.tasks[0]
        return engine

    @property
    def timers(self) -> Timers:
        timers: Timers = self.tasks[1]
        return timers

    def saga_attempts(self, saga_id: UUID) -> tuple[int, str]:
        """Failed attempts of the current leg, and the error of the last one."""
        run = self.engine.in_flight.get(saga_id)
        return (run.attempts, run.last_error) if run is not None else (0, "")


EngineOf = Callable[[Store, Steps], SagaEngine]


def native_engine(store: Store, steps: Steps) -> SagaEngine:
    return NativeEngine(store=store, steps=steps)


def build_cell(
    name: str,
    store: Store,
    *,
    peers: Peers | None = None,
    directory: Directory | None = None,
    clock: Clock | None = None,
    ids: Ids | None = None,
    policy: LedgerPolicy | None = None,
    engine_of: EngineOf = native_engine,
    notifier: Notifier | None = None,
    failpoints: NoFailpoints | None = None,
    chance: random.Random | None = None,
) -> LocalCell:
    """A cell as the composition root builds it, but for its neighbours."""
    clock, policy, peers = clock or SystemClock(), policy or LedgerPolicy(), peers or DirectPeers()
    ids = ids or UuidV7Ids(clock)
    time = CellTime(cell=name, clock=clock, hlc=HybridLogicalClock())
    failpoints, executions = failpoints or NoFailpoints(), SagaExecutions()
    writer = Writer(store=store, ids=ids, time=time, policy=policy, begun=executions.begun)
    cell = LocalCell(
        contacts=NoContacts(),
        name=name,
        store=store,
        time=time,
        writer=writer,
        directory=directory or FixedDirectory(),
        notifier=notifier or Mailbox(),
        quarantine=AuditStateStore(store) if isinstance(store, PostgresStore) else NothingWrong(),
        accesses=AccessLog(clock=clock, record=lambda accesses: writer.record(RecordAccesses(accesses=accesses))),
        failpoints=failpoints,
    )
    steps = Steps(
        cell=name,
        peers=peers,
        clock=clock,
        ids=ids,
        execute=cell.execute,
        random=chance or random.Random(1),
        history_exporter=HistoryExporter(
            cell=name, store=store, peers=peers, clock=clock, valid_ms=policy.move_valid_ms
        ),
        failpoints=failpoints,
        executions=executions,
    )
    timers = Timers(cell=name, store=store, clock=clock, ids=ids, execute=cell.execute)
    cell.tasks += [engine_of(store, steps), timers, cell.user_import]
    if isinstance(peers, DirectPeers):
        peers.cells[name] = cell
        if peers.directory is None and isinstance(directory, FixedDirectory):
            peers.directory = directory
    return cell


@asynccontextmanager
async def leading(*cells: LocalCell | Leadership) -> AsyncIterator[None]:
    """The cells lead; afterwards they have stepped down."""
    runs = [asyncio.create_task(cell.run()) for cell in cells]
    try:
        await until(lambda: all(cell.leading for cell in cells) or any(run.done() for run in runs))
        yield
    finally:
        for cell in cells:
            cell.stop()
        await asyncio.wait(runs, timeout=WAIT_S)
        for run in runs:
            if not run.done():
                run.cancel()
        await asyncio.gather(*runs)


@asynccontextmanager
async def memory_cell(name: str = "us-east") -> AsyncIterator[tuple[LocalCell, MemoryStore]]:
    """One cell on a store in memory, leading."""
    store = MemoryStore(name)
    cell = build_cell(name, store)
    async with leading(cell):
        try:
            yield cell, store
        finally:
            store.gate.set()


def request(
    command: Command,
    *,
    command_id: UUID | None = None,
    fingerprint: bytes = b"same",
    lane: Lane = Lane.CLIENT,
    deadline_s: float | None = None,
    size_bytes: int = 100,
) -> CommandRequest:
    """A client's request."""
    command_id = command_id or uuid4()
    return CommandRequest(
        command_id=command_id,
        fingerprint=fingerprint,
        principal="service/test",
        command=command,
        correlation_id=command_id,
        causation_id=None,
        user_id=None,
        deadline_s=deadline_s,
        lane=lane,
        size_bytes=size_bytes,
    )


def request_of_leg(call: LegCall, cell: str, direction: Direction, said: Metadata) -> CommandRequest:
    """A peer's request, as the cell gets it."""
    command = leg_command(call, direction, sent_ms=sent_ms(said))
    return CommandRequest(
        command_id=command_id(command, cell),
        fingerprint=b"",
        principal=f"peer/{call.orchestrator}",
        command=command,
        correlation_id=call.leg_id.saga_id,
        causation_id=call.causation_id,
        user_id=call.user_id,
        deadline_s=None,
        lane=Lane.URGENT,
        size_bytes=0,
    )


def deposit(user_id: UUID, amount_minor: int = 100, reference: str | None = None) -> Deposit:
    return Deposit(user_id=user_id, amount=Money("USD", amount_minor), external_reference=reference or str(uuid4()))


async def open_user(cell: Cell, amount_minor: int = 0, directory: FixedDirectory | None = None) -> UUID:
    """A new user of the cell, with money if wanted."""
    user_id = uuid4()
    if directory is not None:
        directory.homes[user_id] = cell.name
    await cell.execute(request(OpenAccount(user_id=user_id, home_epoch=1)))
    if amount_minor:
        await cell.execute(request(deposit(user_id, amount_minor)))
    return user_id


async def open_auction(
    cell: Cell, seller_id: UUID, *, seller_cell: str | None = None, timeout_ms: int | None = None
) -> UUID:
    """A new auction of a new asset, from 1.00 USD, ending in an hour."""
    registered = await cell.execute(
        request(RegisterAsset(owner_id=seller_id, owner_cell=seller_cell or cell.name, description="a lamp"))
    )
    outcome = await cell.execute(
        request(
            CreateAuction(
                asset_id=registered.result.asset_id,
                seller_id=seller_id,
                opening=Money("USD", 100),
                increment_minor=1,
                end_time_ms=cell.time.clock.wall_ms() + 3_600_000,
                extension_ms=0,
                settlement_timeout_ms=timeout_ms,
            )
        )
    )
    auction_id: UUID = outcome.result.auction_id
    return auction_id


async def settle_all(answers: Sequence[asyncio.Task[Outcome]]) -> list[Outcome | BaseException]:
    """What came of each, refusals included."""
    return await asyncio.gather(*answers, return_exceptions=True)


async def available(cell: Cell, user_id: UUID) -> int:
    return (await cell.account(user_id)).state.balance("USD").available_minor


def under_way(cell: Cell) -> bool:
    """Whether a commit with commands in it waits at the gate."""
    committing = cell.writer._committing
    return cell.writer._under_way and committing is not None and bool(committing.answers)


def deposits_of(store: MemoryStore, user_id: UUID) -> int:
    return sum(row.event_type == "DEPOSITED" and row.aggregate_id == user_id for row in store.log)
