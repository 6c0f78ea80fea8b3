"""Three cells in memory that settle auctions with each other, the cable between them, and the books of every commit."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

from cells.domain.commands import CloseAuction, PlaceBid
from cells.domain.sagas.leg import LegMark
from cells.domain.sagas.saga import LegState, Saga, SagaState
from cells.domain.values import Direction, Money
from cells.sagas.engine import SagaEngine
from cells.sagas.steps import Steps
from cells.store.ports import LegCall, PeerUnknown, Store
from tests.doubles.failpoints import holding
from tests.local_cells import (
    DirectPeers,
    EngineOf,
    FixedDirectory,
    LocalCell,
    build_cell,
    leading,
    native_engine,
    open_auction,
    open_user,
    request,
    until,
    until_async,
)
from tests.simulation.books import Books, WatchedStore

HERE, AWAY, THIRD = "us-east", "eu-west", "ap-tokyo"
PRICE_MINOR = 1_000
PATIENCE_S = 60.0


@dataclass(slots=True)
class Cable(DirectPeers):
    """Calls into a cell that is cut off vanish; their callers hear nothing before their timeout."""

    timeout_s: float = 0.02
    lost: int = 0
    failing: set[str] = field(default_factory=set)
    # Legs that are taken, and whose next answer gets lost.
    unheard: set[str] = field(default_factory=set)

    async def request_leg(self, cell: str, call: LegCall, direction: Direction, *, timeout_s: float) -> LegMark:
        await self._on_its_way(cell, call)
        answer = await DirectPeers.request_leg(self, cell, call, direction, timeout_s=timeout_s)
        if call.leg_id.leg in self.unheard:
            self.unheard.remove(call.leg_id.leg)
            raise PeerUnknown(f"{cell}: no answer")
        return answer

    async def _on_its_way(self, cell: str, call: LegCall) -> None:
        if cell in self.cut:
            await asyncio.sleep(self.timeout_s)
            self.lost += 1
            raise PeerUnknown(f"{cell}: no answer")
        if call.leg_id.leg in self.failing:
            raise PeerUnknown(f"{cell}: INTERNAL", answered=True)


@dataclass(slots=True, kw_only=True)
class World:
    books: Books
    stores: dict[str, WatchedStore]
    cable: Cable
    directory: FixedDirectory
    engine_of: EngineOf
    cells: dict[str, LocalCell] = field(default_factory=dict)
    all_steps: dict[str, Steps] = field(default_factory=dict)
    _leads: dict[str, AsyncExitStack] = field(default_factory=dict)

    async def lead(self, name: str) -> None:
        """A new process, as it were, leads on the store that is there."""
        store = self.stores[name]
        cell = build_cell(name, store, peers=self.cable, directory=self.directory, engine_of=self._engine)
        self.cells[name] = cell
        self._leads[name] = AsyncExitStack()
        await self._leads[name].enter_async_context(leading(cell))

    async def step_down(self, *names: str) -> None:
        for name in names:
            await self._leads.pop(name).aclose()

    def _engine(self, store: Store, steps: Steps) -> SagaEngine:
        self.all_steps[steps.cell] = steps
        return self.engine_of(store, steps)

    async def won(self, winner_cell: str, seller_cell: str = HERE, timeout_ms: int | None = None) -> UUID:
        """An auction here with its only bid; returns the auction."""
        winner = await open_user(self.cells[winner_cell], PRICE_MINOR, self.directory)
        seller = await open_user(self.cells[seller_cell], 0, self.directory)
        auction = await open_auction(self.cells[HERE], seller, seller_cell=seller_cell, timeout_ms=timeout_ms)
        bid = PlaceBid(auction_id=auction, auction_cell=HERE, bidder_id=winner, amount=Money("USD", PRICE_MINOR))
        await self.cells[winner_cell].execute(request(bid))
        return auction

    async def close(self, auction: UUID) -> None:
        await self.cells[HERE].execute(request(CloseAuction(auction_id=auction, by_command=True)))

    async def sold(self, winner_cell: str, seller_cell: str = HERE, timeout_ms: int | None = None) -> UUID:
        """An auction here that is closed, so that its settlement begins; returns the auction."""
        auction = await self.won(winner_cell, seller_cell, timeout_ms)
        await self.close(auction)
        return auction

    async def saga_id(self, auction: UUID) -> UUID:
        saga_id = (await self.cells[HERE].auction(auction)).state.saga_id
        assert saga_id is not None
        return saga_id

    async def saga(self, auction: UUID) -> Saga:
        return (await self.cells[HERE].saga(await self.saga_id(auction))).state

    async def becomes(self, auction: UUID, state: SagaState) -> None:
        async def so() -> bool:
            return (await self.saga(auction)).state is state

        await until_async(so, timeout_s=PATIENCE_S)

    async def become(self, state: SagaState, *auctions: UUID) -> None:
        for auction in auctions:
            await self.becomes(auction, state)

    async def settles(self, auction: UUID) -> None:
        """Waits until it is sold and no saga is left; then looks at the books."""
        await self.becomes(auction, SagaState.COMPLETED)
        await self.settled()

    async def settled(self) -> None:
        """Waits until every saga has ended, also those that tell of a failure; then looks at the books."""
        await until(lambda: all(saga.ended for saga in self.books.sagas.values()), timeout_s=PATIENCE_S)
        self.books.check_settled()

    async def is_at(self, auction: UUID, leg: str) -> None:
        async def so() -> bool:
            spec = (await self.saga(auction)).current
            return spec is not None and spec.leg == leg

        await until_async(so, timeout_s=PATIENCE_S)

    async def leg(self, auction: UUID, leg: str) -> LegState:
        saga = await self.saga(auction)
        return next(each.state for spec, each in zip(saga.specs, saga.legs, strict=True) if spec.leg == leg)

    @asynccontextmanager
    async def held(self, auction: UUID, leg: str) -> AsyncIterator[None]:
        """The auction is closed, and its settlement does not take the leg meanwhile."""
        with holding(self.steps, leg):
            await self.close(auction)
            await self.is_at(auction, leg)
            yield

    @property
    def steps(self) -> Steps:
        """Of the cell that the auctions are in."""
        return self.all_steps[HERE]


@asynccontextmanager
async def world(engine_of: EngineOf = native_engine) -> AsyncIterator[World]:
    """The cells lead; at the end the books are right."""
    books, cable, directory = Books(), Cable(), FixedDirectory()
    stores = {name: WatchedStore(name, books) for name in (HERE, AWAY, THIRD)}
    here = World(books=books, stores=stores, cable=cable, directory=directory, engine_of=engine_of)
    try:
        for name in stores:
            await here.lead(name)
        yield here
    finally:
        await here.step_down(*here._leads)
    for name, store in stores.items():
        books.check_store(name, store)
