"""A cell to put load on: its database, its process, its users with money, its auctions."""

import asyncio
import random
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

import grpc.aio

from cellbook.v1 import auction_pb2, ledger_pb2, types_pb2
from cellbook.v1.auction_pb2_grpc import AuctionServiceStub
from cellbook.v1.ledger_pb2_grpc import LedgerServiceStub
from server.cli.cluster import LOOPBACK, Member
from server.cli.warden import Warden
from server.shell.postgres import EmbeddedPostgres
from tests.bench.calls import FUNDS_MINOR, Bids, user_id
from tests.bench.load import SERVICE

if TYPE_CHECKING:
    # They exist for type checkers alone.
    from cellbook.v1.auction_pb2_grpc import AuctionServiceAsyncStub
    from cellbook.v1.ledger_pb2_grpc import LedgerServiceAsyncStub

CELL, DATABASE = "us-east", "cellbook"
OPERATOR = (("cellbook-principal", "operator/bench"),)
START_S = 60.0
AT_ONCE = 64
DEPOSITS_AT_ONCE = 1_000
END_TIME_MS = 4_102_444_800_000
_PORTS = range(12_000, 19_000)

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(slots=True, kw_only=True)
class Ground:
    """The folder that a bench works in. What it starts there ends with it, even if it is killed."""

    folder: Path
    warden: Warden

    @asynccontextmanager
    async def postgres(self, name: str) -> AsyncIterator[EmbeddedPostgres]:
        """A PostgreSQL of its own, with an empty database for a cell."""
        postgres = EmbeddedPostgres(self.folder / name)
        self.warden.watch_database(postgres.data)
        try:
            await postgres.start()
            await postgres.ensure_database(DATABASE)
            yield postgres
        finally:
            await postgres.stop("immediate")
            shutil.rmtree(postgres.data, ignore_errors=True)

    @asynccontextmanager
    async def server(self, name: str, postgres: EmbeddedPostgres, **settings: str) -> AsyncIterator[Member]:
        """One `python -m server`, ready: it leads, or stands by where another one leads."""
        server = self.member(name, postgres, **settings)
        try:
            self.warden.watch(pid=server.start(), folder=server.folder)
            await server.wait_until_ready(time.monotonic() + START_S)
            yield server
        finally:
            await server.stop()

    def member(self, name: str, postgres: EmbeddedPostgres, **settings: str) -> Member:
        address = f"{LOOPBACK}:{random.choice(_PORTS)}"
        fixed = {"cell": CELL, "listen": address, "dsn": postgres.dsn(DATABASE)}
        return Member(
            name=name, module="server", address=address, folder=self.folder / name, settings={**fixed, **settings}
        )


@asynccontextmanager
async def ground() -> AsyncIterator[Ground]:
    folder = Path(tempfile.mkdtemp(prefix="cellbook-bench-"))
    warden = Warden()
    warden.inherit(folder)
    try:
        yield Ground(folder=folder, warden=warden)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        warden.dismiss()


@dataclass(slots=True, kw_only=True)
class Town:
    """A cell's users are user_id(0), user_id(1), ...; each auction has the next of them for bidders."""

    address: str
    users: int
    auctions: tuple[str, ...]
    # One that all users bid in.
    hot: str
    _tiers: dict[str, int] = field(default_factory=dict)

    def spread(self, items: int, *, auctions: int | None = None, turn: int) -> Bids:
        """Bids in the first so many auctions, by the users that belong there."""
        chosen = self.auctions[:auctions]
        return self._bids(chosen, self.users // len(self.auctions), items, turn)

    def in_one(self, items: int, *, turn: int) -> Bids:
        return self._bids((self.hot,), self.users, items, turn)

    def _bids(self, auctions: tuple[str, ...], bidders_each: int, items: int, turn: int) -> Bids:
        """Each time of a higher tier: nobody asks how far the last ones have come."""
        tier = self._tiers[auctions[0]] = self._tiers.get(auctions[0], -1) + 1
        return Bids(
            auctions=auctions,
            bidders_each=bidders_each,
            turn=turn,
            items=max(items, 1),
            batch=bool(items),
            tier=tier,
        )


@dataclass(slots=True, kw_only=True)
class Settlers:
    """Fill a cell with users and auctions, over gRPC."""

    ledger: "LedgerServiceAsyncStub"
    auctions: "AuctionServiceAsyncStub"

    async def open_account(self, number: int) -> None:
        request = ledger_pb2.OpenAccountRequest(command_id=str(uuid4()), user_id=user_id(number), home_epoch=1)
        await self.ledger.OpenAccount(request, metadata=OPERATOR)

    async def fund(self, numbers: Iterable[int]) -> None:
        items = [
            ledger_pb2.DepositRequest(
                command_id=str(uuid4()),
                user_id=user_id(number),
                amount=usd(FUNDS_MINOR),
                external_reference=f"bank/{number}",
            )
            for number in numbers
        ]
        answer = await self.ledger.BatchDeposit(ledger_pb2.BatchDepositRequest(items=items), metadata=SERVICE)
        assert all(result.HasField("accepted") for result in answer.results)

    async def open_auction(self, seller: int) -> str:
        asset = auction_pb2.RegisterAssetRequest(command_id=str(uuid4()), owner_user_id=user_id(seller))
        registered = await self.auctions.RegisterAsset(asset, metadata=SERVICE)
        auction = auction_pb2.CreateAuctionRequest(
            command_id=str(uuid4()),
            asset=registered.asset,
            seller_user_id=user_id(seller),
            opening_price=usd(1),
            end_time_ms=END_TIME_MS,
        )
        return (await self.auctions.CreateAuction(auction, metadata=SERVICE)).auction


@asynccontextmanager
async def settlers(address: str) -> AsyncIterator[Settlers]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield Settlers(ledger=LedgerServiceStub(channel), auctions=AuctionServiceStub(channel))


async def settle(address: str, *, users: int, auctions: int) -> Town:
    """A town in an empty cell. The seller of all is one more user, who never bids."""
    async with settlers(address) as making:
        await each(range(users + 1), making.open_account)
        for first in range(0, users, DEPOSITS_AT_ONCE):
            await making.fund(range(first, min(first + DEPOSITS_AT_ONCE, users)))
        names = await each([users] * (auctions + 1), making.open_auction)
    return Town(address=address, users=users, auctions=tuple(names[1:]), hot=names[0])


async def each(items: Iterable[Item], call: Callable[[Item], Awaitable[Made]]) -> list[Made]:
    """What the call makes of each, so many at once."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(item: Item) -> Made:
        async with gate:
            return await call(item)

    return list(await asyncio.gather(*map(one, items)))


def usd(amount_minor: int) -> types_pb2.Money:
    return types_pb2.Money(currency="USD", amount_minor=amount_minor)
