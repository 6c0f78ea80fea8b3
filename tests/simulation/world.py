"""One seed's run: three cells, a router and clients with faults, then without, and all invariants must hold."""

import asyncio
import hashlib
import logging
import random
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID

import structlog

from cells.domain.auction.auction import Auction, AuctionState
from cells.domain.values import Kind, Ref
from router.directory.topology import Cell, LiveTopology, Topology
from tests.simulation.abuse import Abuser
from tests.simulation.books import Books
from tests.simulation.clients import Clients
from tests.simulation.ground import HOSTILE, must
from tests.simulation.hostile import HostileCell
from tests.simulation.loop import START_MS, VirtualClock, virtual_loop
from tests.simulation.network import Network
from tests.simulation.nodes import CellNode, RouterNode
from tests.simulation.repeats import Repeats
from tests.simulation.storage import Database
from tests.simulation.weather import Mischief, Weather

if TYPE_CHECKING:
    from router.directory.users import UserEntry
    from router.moves.store import Move

CELLS = ("ap-tokyo", "eu-west", "us-east")
OPEN_S = 3.0
BAD_WEATHER_S = 7.0
ABUSED = 0.1
# Virtual time for everything to finish once there are no more faults.
PATIENCE_S = 300.0
POLL_S = 0.25
# How long calls may be held back after the faults have ended: an attempt and a deadline.
OVERTAKEN_S = 15.0
# A cell logs these only if its own code is wrong.
BUGS = frozenset({"background_task_failed", "command_failed", "needs_incomplete", "call_failed"})
CLOCK_OFFSETS_MS = (-3_600_000, -5_000, -400, 400, 5_000, 3_600_000)


class World:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self._storm = Weather.drawn(self.chance)
        # Usually the market opens before the faults begin: there is more to break then.
        self.weather = self._storm if self.chance.random() < 0.25 else self._storm.cleared_up()
        self.loop = virtual_loop(random.Random(f"{seed}/turns"))
        self.story: list[tuple[float, str, tuple[object, ...]]] = []
        self.books = Books()
        self.cells = CELLS
        self.databases = {cell: Database(cell, self.books) for cell in CELLS}
        self.clocks = {cell: VirtualClock(self.loop, offset_ms=self.chance.randint(-50, 50)) for cell in CELLS}
        self.homes: dict[UUID, UserEntry] = {}
        # By caller and command, as in the router's database.
        self.moves: dict[tuple[str, UUID], Move] = {}
        self.topology = LiveTopology(Topology([Cell(name=cell, region=cell, endpoints=(cell,)) for cell in CELLS]))
        self.network = Network(self)
        self.router = RouterNode(self)
        self.nodes: dict[str, list[CellNode]] = {cell: [] for cell in CELLS}
        self.clients = Clients(self)
        self.hostile = HostileCell(self)
        # In some runs one user demands as much as possible; the others behave as without it.
        self.is_abused = random.Random(f"{seed}/abuse").random() < ABUSED
        self._people: list[asyncio.Task[None]] = []
        self._sellers = 0
        self._begun = 0
        self._ids = random.Random(f"{seed}/ids")

    # --- the run ------------------------------------------------------------------------------------------------------

    def play(self) -> None:
        """Raises any violation."""
        try:
            with structlog_to(self._heard):
                self.loop.run_until_complete(self._play())
        finally:
            self.loop.close()

    async def _play(self) -> None:
        self.tell("{}", self._storm)
        for cell in CELLS:
            self.begin(cell)
        self._people = [self.clients.process.start(person) for person in self._crowd()]
        for person in self._people:
            person.add_done_callback(self.loop.look_at)
        await self._bad_weather()
        await self._calm()
        give_up_s = self.loop.time() + PATIENCE_S
        while not self._at_rest():
            must(self.loop.time() < give_up_s, "it does not come to rest", self._restless())
            await self.nap(POLL_S)
            for cell in CELLS:
                # An earlier commit may have finished only now.
                self._sleep_through(cell)
        self.check()

    def _crowd(self) -> list[Coroutine[Any, Any, None]]:
        chance, clients = self.chance, self.clients
        self._sellers = chance.randint(1, 4)
        sellers = [clients.sell(chance.choice(CELLS)) for _ in range(self._sellers)]
        bidders = [clients.bid(chance.choice(CELLS)) for _ in range(chance.randint(2, 4))]
        payers = [clients.pay(chance.choice(CELLS)) for _ in range(chance.randint(0, 3))]
        movers = [clients.move() for _ in range(chance.randint(0, 2))]
        repeaters = [Repeats(clients).repeat() for _ in range(chance.randint(0, 2))]
        # Half of the seeds have no hostile cell.
        hostile = [self.hostile.attack()] if self.seed % 2 else []
        abusers = [Abuser(self).abuse(chance.choice(CELLS))] if self.is_abused else []
        return [*sellers, *bidders, *payers, *movers, *repeaters, *hostile, *abusers]

    async def _bad_weather(self) -> None:
        while self.weather is not self._storm and self.clients.opened < self._sellers and self.loop.time() < OPEN_S:
            await self.nap(0.05)
        self.tell("the weather turns bad")
        self.weather = self._storm
        ends_s = self.loop.time() + BAD_WEATHER_S
        while self.loop.time() < ends_s:
            await self.nap(self.chance.expovariate(1 / self.weather.mischief_every_s))
            if self.weather.mischief:
                self._mischief(self.chance.choice(self.weather.mischief), self.chance.choice(CELLS))
            self.books.check_conserved()

    async def _calm(self) -> None:
        """Ends all faults: of links, clocks, databases and processes."""
        self.tell("it clears up")
        self.weather = self._storm.cleared_up()
        self.network.cut.clear()
        # Some calls that are still held back are overtaken later.
        self.after(self.chance.uniform(0, OVERTAKEN_S), self.network.let_go)
        for cell in CELLS:
            self.clocks[cell].offset_ms = 0
            self.databases[cell].away_until_s = 0.0
            for node in self._alive(cell):
                node.process.wake()
                if abs(node.begun_offset_ms) > 500:
                    # It has accepted a wrong time as the right one.
                    node.die()
            self._sleep_through(cell)
            if not self._alive(cell):
                self.begin(cell)

    def _sleep_through(self, cell: str) -> None:
        """Waits until the time has passed up to which a log was written in the future."""
        ahead_ms = self.databases[cell]._bound_ms - self.wall_ms()
        if ahead_ms > 5_000:
            self.tell("{} has to wait for {} ms", cell, ahead_ms)
            self.loop.sleep_all(ahead_ms / 1_000)

    def _at_rest(self) -> bool:
        return self.network.quiet and not self._restless()

    def _restless(self) -> list[str]:
        sagas = [f"{saga_id}: {saga}" for saga_id, saga in self.books.sagas.items() if not saga.ended]
        states = [
            state
            for books in self.books.cells.values()
            for ref, state in books.states.items()
            if ref.kind is Kind.AUCTION
        ]
        active = [f"{state.asset_id} is on sale" for state in states if state.state is AuctionState.ACTIVE]
        holds = [
            str(hold)
            for books in self.books.cells.values()
            for ref, state in books.states.items()
            if ref.kind is Kind.ACCOUNT
            for hold in state.holds.values()
            if hold.expire_time_ms is not None
        ]
        people = [str(person.get_coro()) for person in self._people if not person.done()]
        return sagas + active + holds + people

    # --- faults of machines and links ---------------------------------------------------------------------------------

    def _mischief(self, kind: Mischief, cell: str) -> None:
        chance, node = self.chance, self.process_at(cell)
        soon_s = chance.uniform(0.2, 5)
        match kind:
            case Mischief.CUT:
                self._cut(cell, chance.choice([other for other in (*CELLS, "router") if other != cell]), soon_s)
            case Mischief.CLOCK:
                self.clocks[cell].offset_ms = chance.choice(CLOCK_OFFSETS_MS)
                self.tell("the clock of {} is wrong by {} ms", cell, self.clocks[cell].offset_ms)
                self.after(soon_s, self._set_clock, cell)
            case Mischief.STORE:
                self.databases[cell].away_until_s = self.loop.time() + soon_s / 2
                self.tell("the database of {} is away for {} s", cell, soon_s / 2)
            case Mischief.STANDBY if len(self._alive(cell)) < 2:
                self.begin(cell)
            case Mischief.ROUTER:
                self.router.process.end()
                self.tell("the router is killed")
                self.router = RouterNode(self)
            case Mischief.KILL if isinstance(node, CellNode):
                node.die()
                self.revive_later(cell)
            case Mischief.UPGRADE if isinstance(node, CellNode):
                self.tell("{} is to step down", node.name)
                node.process.launch(_do(node.cell.stop))
            case Mischief.PAUSE if isinstance(node, CellNode):
                self.tell("{} is stopped for {} s", node.name, soon_s)
                node.process.stop()
                self.after(soon_s, self._wake, node)
            case _:
                pass

    def _cut(self, one: str, other: str, lasts_s: float) -> None:
        links = self.chance.choice([[(one, other)], [(other, one)], [(one, other), (other, one)]])
        self.tell("cut for {} s: {}", lasts_s, links)
        for link in links:
            self.network.cut.add(link)
            self.after(lasts_s * self.chance.uniform(0.5, 1), self.network.cut.discard, link)

    def _set_clock(self, cell: str) -> None:
        self.tell("the clock of {} is right again", cell)
        self.clocks[cell].offset_ms = 0

    def _wake(self, node: CellNode) -> None:
        if not node.process.ended:
            self.tell("{} goes on", node.name)
        node.process.wake()

    def revive_later(self, cell: str) -> None:
        self.after(self.chance.uniform(0.05, 3), self._revive, cell)

    def _revive(self, cell: str) -> None:
        if not self._alive(cell):
            self.begin(cell)

    def begin(self, cell: str) -> None:
        self._begun += 1
        node = CellNode(self, cell, self._begun)
        self.tell("{} is started", node.name)
        self.nodes[cell].append(node)

    # --- used by the other parts --------------------------------------------------------------------------------------

    def process_at(self, place: str) -> CellNode | RouterNode | HostileCell | None:
        """The process that a call reaches: usually the one that leads, or believes that it does."""
        if place == "router":
            return self.router
        if place == HOSTILE:
            return self.hostile
        alive = self._alive(place)
        leading = [node for node in alive if node.cell.leading]
        if leading and self.chance.random() < 0.9:
            alive = leading
        return self.chance.choice(alive) if alive else None

    def _alive(self, cell: str) -> list[CellNode]:
        return [node for node in self.nodes[cell] if not node.process.ended]

    def after(self, delay_s: float, action: Callable[..., object], *args: object) -> None:
        """Outside all processes."""
        self.loop.call_later(delay_s, action, *args, context=self.loop.world.context)

    async def nap(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def wall_ms(self) -> int:
        return START_MS + int(self.loop.time() * 1_000)

    def new_id(self) -> UUID:
        return UUID(int=self._ids.getrandbits(128), version=4)

    def tell(self, text: str, *facts: object) -> None:
        self.story.append((self.loop.time(), text, facts))

    def end(self, failure: BaseException) -> None:
        self.loop.failure = self.loop.failure or failure

    def _heard(self, event: str, facts: dict[str, Any]) -> None:
        self.tell("log: {} {}", event, facts)
        if event in BUGS:
            self.end(sys.exception() or RuntimeError(event))

    # --- at rest ----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        self.books.check_conserved()
        self.books.check_settled()
        for cell, database in self.databases.items():
            self.books.check_store(cell, database)
        self._check_paper()

    def _check_paper(self) -> None:
        """Every balance equals the clients' answers plus the results of the auctions."""
        paper, books = self.clients.paper, self.books
        must(books.bids == paper.bids, "bids differ from what clients were told", books.bids ^ paper.bids)
        expected = dict(paper.available)
        for cell in CELLS:
            for ref, state in books.cells[cell].states.items():
                if isinstance(state, Auction) and state.state is AuctionState.SETTLED and state.highest_bid:
                    price = state.highest_bid.amount_minor
                    if state.highest_bid.bidder_cell != HOSTILE:
                        expected[state.highest_bid.bidder_id] = expected.get(state.highest_bid.bidder_id, 0) - price
                    expected[state.seller_id] = expected.get(state.seller_id, 0) + price - price // 10
                    must(
                        books.cells[cell].owners[state.asset_id] == str(state.highest_bid.bidder_id),
                        "not the winner's",
                        ref,
                    )
        for user_id in self.clients.homes:
            home = self._home(user_id)
            balances = books.cells[home].balances
            told = (expected.get(user_id, 0), paper.reserved.get(user_id, 0))
            booked = tuple(
                balances.get((f"users/{user_id}/{bucket}", "USD"), 0) for bucket in ("available", "reserved")
            )
            gifts = books.hostile.gifts
            told = (told[0] + gifts.get((str(user_id), "available"), 0), told[1])
            must(told == booked, "a balance is not what the clients were told", user_id, home, told, booked)
        must(-books.total("external") == paper.outside, "deposits differ from what clients were told")

    def _home(self, user_id: UUID) -> str:
        """The user's home: one cell, which the router knows, and which has the highest epoch of all."""
        ref = Ref(Kind.ACCOUNT, user_id)
        accounts = {cell: account for cell in CELLS if (account := self.books.cells[cell].states.get(ref))}
        homes = [cell for cell, account in accounts.items() if account.move is None]
        must(len(homes) == 1, "a user is not at home in one cell", user_id, homes)
        must(self.homes[user_id].cell.name == homes[0], "the router does not know a home", user_id, homes)
        epochs = {account.home_epoch: cell for cell, account in accounts.items()}
        must(epochs[max(epochs)] == homes[0], "a home is not that of the highest epoch", user_id, epochs)
        return homes[0]

    def digest(self) -> str:
        """Of all messages and all rows: the same for the same seed."""
        content = hashlib.sha256("\n".join(self.told()).encode())
        for database in self.databases.values():
            for row in database.log:
                content.update(repr(row).encode())
        return content.hexdigest()

    def told(self) -> list[str]:
        return [f"{at_s:10.4f}  {text.format(*facts)}" for at_s, text, facts in self.story]


def played(world: World) -> str:
    """The violation and how to reproduce it; empty if there is none."""
    try:
        world.play()
    except Exception as failure:  # noqa: BLE001 - whatever it is, the seed tells
        return f"seed {world.seed}: {type(failure).__name__}: {failure}\n    make simulate SEED={world.seed}"
    return ""


async def _do(action: Callable[[], None]) -> None:
    action()


@contextmanager
def structlog_to(hear: Callable[[str, dict[str, Any]], None]) -> Iterator[None]:
    """Passes warnings and worse to `hear`, and drops everything else."""
    before = structlog.get_config()

    def told(_logger: object, _method: str, facts: structlog.typing.EventDict) -> NoReturn:
        hear(str(facts.pop("event")), dict(facts))
        raise structlog.DropEvent

    structlog.configure(processors=[told], wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    try:
        yield
    finally:
        structlog.configure(**before)
