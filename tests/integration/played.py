"""Two cells with a small market behind them, each in a database of its own, cloned for each test that breaks them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest

from cells.audit.history.trace import Silent
from cells.audit.reconcile.cuts import Clearing, Sides, SidesWanted
from cells.audit.reconcile.one_pass import SQL as RECONCILE
from cells.audit.reconcile.replay_state import AuditStateStore
from cells.audit.reconcile.service import ReconciliationService
from cells.domain.commands import CloseAuction, PlaceBid, Reserve, Transfer, Withdraw
from cells.domain.decision import LedgerPolicy
from cells.domain.refusals import BidTooLow
from cells.domain.values import Money
from cells.encoding.leaves import read_leaf
from server.audit.build import reloading
from server.audit.process import direct_passes
from server.shell.postgres.database import Connection
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.database import ask, connected, copy_database, opened
from tests.local_cells import (
    DirectPeers,
    FixedDirectory,
    LocalCell,
    build_cell,
    leading,
    open_auction,
    open_user,
    request,
    until,
)

HERE, THERE = "us-east", "eu-west"
PRICE_MINOR = 700
GUARDED = ("event_store", "account_entries", "clearing_entries", "saga_legs", "external_references")


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """The databases of both cells, by name; nobody leads them. Ann and Ben live here, Carl there."""

    dsns: dict[str, str]
    ann: UUID
    ben: UUID
    carl: UUID


@dataclass(frozen=True, slots=True)
class Templates:
    names: dict[str, str]
    people: tuple[UUID, UUID, UUID]


@pytest.fixture(scope="session")
def market(cluster: EmbeddedPostgres, template: str) -> Templates:
    """Played once. No session may be left at a database that others are cloned from."""
    names = {cell: f"market_{cell.replace('-', '_')}" for cell in (HERE, THERE)}

    async def make() -> tuple[UUID, UUID, UUID]:
        for name in names.values():
            await copy_database(cluster, template, name)
        async with serving({cell: cluster.dsn(name) for cell, name in names.items()}) as town:
            return await town.play()

    return Templates(names, asyncio.run(make()))


@pytest.fixture
async def played(cluster: EmbeddedPostgres, market: Templates) -> AsyncIterator[Played]:
    clones = {cell: f"{name}_{uuid4().hex}" for cell, name in market.names.items()}
    for cell, name in clones.items():
        await copy_database(cluster, market.names[cell], name)
    ann, ben, carl = market.people
    yield Played(dsns={cell: cluster.dsn(name) for cell, name in clones.items()}, ann=ann, ben=ben, carl=carl)
    for name in clones.values():
        await ask(cluster.dsn("postgres"), f'DROP DATABASE "{name}" WITH (FORCE)')


@dataclass(slots=True, kw_only=True)
class Town:
    """Both cells, leading."""

    here: LocalCell
    there: LocalCell
    peers: DirectPeers
    directory: FixedDirectory
    # What audits the tables of each, by name.
    reconciliations: dict[str, ReconciliationService]

    async def play(self) -> tuple[UUID, UUID, UUID]:
        """Something of every kind: sales within a cell and across, one rolled back, bids in vain, holds, transfers."""
        here, there, directory = self.here, self.there, self.directory
        ann = await open_user(here, 100_000, directory)
        ben = await open_user(here, 100_000, directory)
        carl = await open_user(there, 100_000, directory)
        await self.sale(seller=ann, bids=[(ben, here, 300), (carl, there, PRICE_MINOR)])
        await self.sale(seller=ann, bids=[(ben, here, 400)])
        await self.sale(seller=ann, bids=[])
        await self.rolled_back(seller=ann, winner=carl)
        await here.execute(request(Transfer(from_user_id=ann, to_user_id=ben, amount=Money("USD", 25))))
        await here.execute(request(Transfer(from_user_id=ben, to_user_id=carl, amount=Money("USD", 35), to_cell=THERE)))
        await here.execute(request(Reserve(user_id=ben, amount=Money("USD", 60), expire_time_ms=None)))
        await there.execute(
            request(Withdraw(user_id=carl, amount=Money("USD", 5), external_reference=f"iban-{uuid4()}"))
        )
        auction = await open_auction(here, ann)
        await self.bid(auction, ben, here, 500)
        with pytest.raises(BidTooLow):
            await self.bid(auction, carl, there, 450)
        await self.quiet()
        return ann, ben, carl

    async def sale(self, *, seller: UUID, bids: "list[tuple[UUID, LocalCell, int]]") -> UUID:
        auction = await open_auction(self.here, seller)
        for bidder, cell, amount in bids:
            await self.bid(auction, bidder, cell, amount)
        await self.here.execute(request(CloseAuction(auction_id=auction, by_command=True)))
        await self.quiet()
        return auction

    async def rolled_back(self, *, seller: UUID, winner: UUID) -> None:
        """The winner's cell is away until the settlement's deadline has passed."""
        auction = await open_auction(self.here, seller, timeout_ms=1_000)
        await self.bid(auction, winner, self.there, PRICE_MINOR)
        self.peers.cut.add(THERE)
        await self.here.execute(request(CloseAuction(auction_id=auction, by_command=True)))
        await asyncio.sleep(1.1)
        self.peers.cut.clear()
        await self.quiet()

    async def bid(self, auction: UUID, bidder: UUID, cell: LocalCell, amount_minor: int) -> None:
        command = PlaceBid(auction_id=auction, auction_cell=HERE, bidder_id=bidder, amount=Money("USD", amount_minor))
        await cell.execute(request(command))

    async def quiet(self) -> None:
        """No saga is under way in either."""
        for cell in (self.here, self.there):
            engine = cell.engine
            await until(lambda engine=engine: not engine.in_flight, timeout_s=30)  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class DirectCutPeers:
    """The neighbours of a cell, asked for what they have of movements without a network in between."""

    here: str
    peers: DirectPeers
    clearings: dict[str, Clearing]

    async def names(self) -> tuple[Sequence[str], str]:
        return [name for name in self.clearings if name != self.here], ""

    async def sides(self, cell: str, wanted: SidesWanted) -> Sides:
        if cell in self.peers.cut:
            raise Silent(f"{cell} is cut off")
        # As the metadata of a call tells it.
        self.peers._tell(self.here, cell)
        return await self.clearings[cell].sides(wanted)


@asynccontextmanager
async def serving(dsns: dict[str, str]) -> AsyncIterator[Town]:
    """The cells lead on their databases, each with an reconciliation service, that looks only when asked."""
    peers, directory = DirectPeers(), FixedDirectory()
    clearings: dict[str, Clearing] = {}
    reconciliations: dict[str, ReconciliationService] = {}
    async with opened(dsns[HERE], HERE) as one, opened(dsns[THERE], THERE) as other:
        cells = []
        for name, store in ((HERE, one), (THERE, other)):
            cell = build_cell(name, store, peers=peers, directory=directory, policy=LedgerPolicy(bid_valid_ms=5_000))
            clearings[name] = Clearing(cell=cell, store=store, peers=DirectCutPeers(name, peers, clearings))
            reconciliations[name] = ReconciliationService(
                cell=cell,
                passes=direct_passes(dsns[name], name),
                clearing=clearings[name],
                states=AuditStateStore(store.of_leader()),
                reload=reloading(cell, cell.engine, cell.timers),
            )
            cell.tasks.append(reconciliations[name])
            cells.append(cell)
        async with leading(*cells):
            yield Town(here=cells[0], there=cells[1], peers=peers, directory=directory, reconciliations=reconciliations)


@asynccontextmanager
async def superuser(dsn: str) -> AsyncIterator[Connection]:
    """Whoever owns the server, past every trigger."""
    async with connected(dsn) as connection:
        for table in GUARDED:
            await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER append_only")
        yield connection
        for table in GUARDED:
            await connection.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER append_only")


async def corrupt(dsn: str, statements: Sequence[str]) -> list[Any]:
    """Executes them as a superuser; of each the key that it gives."""
    async with superuser(dsn) as connection:
        keys = [await connection.fetchval(statement) for statement in statements]
    assert None not in keys, keys
    return keys


async def rehash(dsn: str) -> None:
    """Makes the hashes beside changed events right again, as a superuser can who knows how they are made."""
    async with superuser(dsn) as connection:
        for row in await connection.fetch(RECONCILE["events"], 0, 1_000_000):
            leaf = read_leaf(row["event_type"], row["leaf"]).leaf_hash
            if leaf != row["leaf_hash"]:
                await connection.execute("UPDATE event_store SET leaf_hash = $2 WHERE position = $1", row[0], leaf)
