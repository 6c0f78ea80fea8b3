"""Three real cells on three real databases, which talk to each other by gRPC: what an audit goes over."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc.aio

from cells.audit.history.snapshotter import LiveSnapshots, Snapshotter
from cells.domain.commands import CloseAuction, PlaceBid
from cells.domain.moves.home import Home
from cells.domain.values import Money
from cells.store.postgres import PostgresStore
from server.audit.keys import signing_keys
from server.cli.client import Client
from server.cli.reach import Reach
from server.process.cell import Parts, build_cell
from server.process.clock import CellClock
from server.process.policies import POLICIES
from server.process.settings import ServerSettings
from server.services.auctions import AuctionServicer
from server.services.audit import AuditServicer
from server.services.ledger import LedgerServicer
from server.services.sagas import SagaServicer
from server.services.settlement import SettlementServicer
from server.shell.calls.guard import CallGuard
from server.shell.hosting.host import add_servicer
from server.shell.hosting.security import build_security
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.database import another, opened
from tests.integration.services_rig import Calls
from tests.local_cells import leading, open_auction, open_user, request, until, until_async

NOWHERE = "127.0.0.1:1"
CELLS = ("us-east", "eu-west", "ap-tokyo")


@dataclass(slots=True, kw_only=True)
class Served(Calls):
    """One cell, its store, the server that others reach it by, and a channel to it."""

    parts: Parts
    store: PostgresStore
    dsn: str
    address: str
    server: grpc.aio.Server
    channel: grpc.aio.Channel

    @property
    def keeper(self) -> Snapshotter:
        [keeper] = [task for task in self.parts.leadership.tasks if isinstance(task, Snapshotter)]
        return keeper

    @property
    def live(self) -> LiveSnapshots:
        [live] = [task for task in self.parts.leadership.tasks if isinstance(task, LiveSnapshots)]
        return live

    async def stop_snapshots(self) -> None:
        """Tests make snapshots when they want them: nothing is to come between."""
        await until(lambda: self.keeper.background.running and self.live.background.running)
        await self.keeper.stop()
        await self.live.stop()


@dataclass(slots=True, kw_only=True)
class Town:
    cells: dict[str, Served] = field(default_factory=dict)
    # Where keys are.
    folder: Path | None = None

    @asynccontextmanager
    async def reach(self, *names: str) -> AsyncIterator[Reach]:
        """As the command line reaches the cells, or some of them."""
        async with Client(NOWHERE) as client:
            cells = [
                client.cell(name=name, region="", address=each.address)
                for name, each in self.cells.items()
                if name in (names or self.cells)
            ]
            yield Reach(client=client, cells=cells, listed=sorted(self.cells))

    @contextmanager
    def away(self, cell: str) -> Iterator[None]:
        """Nobody is at the cell's address meanwhile."""
        others = [served.parts.peers.locations for name, served in self.cells.items() if name != cell]
        known = [locations.static for locations in others]
        for locations in others:
            locations.static = {**locations.static, cell: NOWHERE}
        yield
        for locations, static in zip(others, known, strict=True):
            locations.static = static

    async def user(self, cell: str, amount_minor: int = 0) -> UUID:
        """A new user of the cell, whom all cells know of."""
        user_id = await open_user(self.cells[cell].parts.cell, amount_minor)
        for each in self.cells.values():
            each.parts.cell.homes.keep(user_id, Home(cell, 1))
        return user_id

    async def bid(self, cell: str, bidder: UUID, auction_cell: str, auction_id: UUID, amount_minor: int) -> UUID:
        """The command's id."""
        command_id = uuid4()
        bid = PlaceBid(
            auction_cell=auction_cell, auction_id=auction_id, bidder_id=bidder, amount=Money("USD", amount_minor)
        )
        await self.cells[cell].parts.cell.execute(request(bid, command_id=command_id))
        return command_id

    async def sale(
        self, winner_cell: str = CELLS[0], auction_cell: str = CELLS[1], seller_cell: str = CELLS[2]
    ) -> "Sale":
        """An auction in one cell, won by a user of another, sold by one of a third; settled when it returns."""
        winner, seller = await self.user(winner_cell, 100_000), await self.user(seller_cell)
        cell = self.cells[auction_cell].parts.cell
        auction_id = await open_auction(cell, seller, seller_cell=seller_cell)
        bid_command = await self.bid(winner_cell, winner, auction_cell, auction_id, 5_000)
        closed = await cell.execute(request(CloseAuction(auction_id=auction_id, by_command=True)))

        async def settled() -> bool:
            saga = await cell.saga(closed.result.saga_id)
            return saga.state.ended

        await until_async(settled, timeout_s=30.0)
        return Sale(
            auction_id=auction_id,
            saga_id=closed.result.saga_id,
            bid_command_id=bid_command,
            close_command_id=closed.command_id,
            winner=winner,
            seller=seller,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sale:
    auction_id: UUID
    saga_id: UUID
    bid_command_id: UUID
    close_command_id: UUID
    winner: UUID
    seller: UUID


@asynccontextmanager
async def town(cluster: EmbeddedPostgres, template: str, *names: str, keys: Path | None = None) -> AsyncIterator[Town]:
    """The cells lead, and know each other by their settings. With a folder for their `keys` they sign, soon."""
    built = Town()
    async with AsyncExitStack() as stack:
        addresses: dict[str, str] = {}
        for name in names or CELLS:
            dsn = await stack.enter_async_context(another(cluster, template))
            store = await stack.enter_async_context(opened(dsn, name))
            served = await serve(ServerSettings(cell=name, dsn=dsn, listen="127.0.0.1:0", **signing(keys, name)), store)
            addresses[name] = served.address
            built.cells[name] = served
            stack.push_async_callback(served.server.stop, None)
            stack.push_async_callback(served.channel.close)
            stack.push_async_callback(served.parts.peers.close)
        for served in built.cells.values():
            others = {name: address for name, address in addresses.items() if name != served.parts.cell.name}
            served.parts.peers.locations.static = others
        await stack.enter_async_context(leading(*(served.parts.leadership for served in built.cells.values())))
        for served in built.cells.values():
            await served.stop_snapshots()
        yield built


def signing(keys: Path | None, cell: str) -> dict[str, Any]:
    if keys is None:
        return {}
    folder = keys / cell
    folder.mkdir()
    signing_keys(folder / "checkpoint.key", cell, make=True)
    given: dict[str, Any] = {"checkpoint_events": 1, "checkpoint_ms": 100}
    if (keys / "witnesses").exists():
        given["witness_keys_file"] = keys / "witnesses"
    return given | {"checkpoint_key_file": folder / "checkpoint.key"}


async def serve(settings: ServerSettings, store: PostgresStore) -> Served:
    parts = build_cell(settings, store, build_security(settings))
    cell = parts.cell
    # As a host has it: clients ping every 3 s, which is no attack though an answer may take longer.
    pings = [("grpc.http2.min_recv_ping_interval_without_data_ms", 2_000), ("grpc.http2.max_ping_strikes", 0)]
    server = grpc.aio.server(interceptors=[CallGuard(POLICIES, clock=CellClock(time=cell.time))], options=pings)
    add_servicer(SettlementServicer(cell, cell.time.clock), server)
    add_servicer(AuditServicer(parts.audit), server)
    add_servicer(LedgerServicer(cell, cell.time.clock, parts.audit.history), server)
    add_servicer(SagaServicer(cell, parts.engine, parts.audit.history), server)
    add_servicer(AuctionServicer(cell, cell.time.clock, parts.audit.history), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    channel = grpc.aio.insecure_channel(address)
    return Served(parts=parts, store=store, dsn=settings.dsn, address=address, server=server, channel=channel)
