"""A running cluster for tests that hurt it: processes are killed and started again, the databases looked into."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from cellbook.v1 import auction_pb2, ledger_pb2, saga_pb2, types_pb2
from lab.cluster import CELLS, Cluster, four
from lab.market import Market, Person, Won
from lab.member import Member
from server.cli.client import MARKET, new_command_id
from tests.doubles.cell import set_failpoints
from tests.e2e.cellbook_command import SECURE
from tests.invariants import CellBooks, check_all
from tests.local_cells import until_async

WINNER_CELL, AUCTION_CELL, SELLER_CELL = "us-east", "eu-west", "ap-tokyo"
FUNDS_MINOR = 100_000
PRICE_MINOR = 20_000
# 2.5 per cent, the cells' default.
FEE_MINOR = 500


class Town:
    """The cluster, a client of it, and its databases."""

    def __init__(self, cluster: Cluster, market: Market) -> None:
        self.cluster = cluster
        self.market = market

    def member(self, name: str) -> Member:
        return next(member for member in self.cluster.members if member.name == name)

    async def dsns(self) -> dict[str, str]:
        return {cell.name: await self.member(cell.name).dsn() for cell in CELLS}

    def start(self, name: str, *failpoints: str) -> None:
        """Starts a process that has died. It may die again before it is ready: whoever needs it waits for it."""
        member = self.member(name)
        set_failpoints(member, *failpoints)
        member.start()

    async def dies(self, name: str) -> None:
        code = await self.member(name).wait()
        assert code == -9, f"{name} ended with {code}: {self.member(name).failure('died')}"

    async def won(self, label: str = "lamp", *, bids: int = 2, timeout_ms: int = 0) -> Won:
        """An auction ready to be closed: its leading bidder lives in one cell, its seller in another, it in a third."""
        return await self.market.won(
            label,
            winner_cell=WINNER_CELL,
            auction_cell=AUCTION_CELL,
            seller_cell=SELLER_CELL,
            funds_minor=FUNDS_MINOR,
            price_minor=PRICE_MINOR,
            bids=bids,
            settlement_timeout_ms=timeout_ms,
        )

    async def pay(self, payer: Person, payee: Person, amount_minor: int) -> ledger_pb2.TransferResponse:
        """Asked for under one id until there is a definite answer, whoever dies meanwhile."""
        request = ledger_pb2.TransferRequest(
            command_id=new_command_id(),
            from_user_id=payer.user_id,
            to_user_id=payee.user_id,
            amount=types_pb2.Money(currency="USD", amount_minor=amount_minor),
        )
        ledger = self.market.cells[payer.cell].ledger
        return await self.market.client.call(ledger.Transfer, request, MARKET, ledger)

    async def ended(self, won: Won, state: "auction_pb2.AuctionState.ValueType") -> None:
        """Waits until the auction's settlement has ended, and so has every other saga."""
        await until_async(lambda: self.market.auction(won.auction), lambda found: found.state == state, timeout_s=60)
        await self.market.wait_until_quiet()

    async def saga(self, won: Won) -> saga_pb2.Saga:
        auction = await self.market.auction(won.auction)
        return await self.market.saga(won.auction.cell, auction.saga_id)

    async def buckets(self, person: Person) -> tuple[int, int, int]:
        balance = (await self.market.balances(person.cell, person.user_id)).get("USD")
        if balance is None:
            return 0, 0, 0
        return balance.available_minor, balance.reserved_minor, balance.pending_minor

    async def check(self, *, settled: bool = True) -> dict[str, CellBooks]:
        """All invariants, from the databases alone."""
        return await check_all(await self.dsns(), settled=settled)

    async def assert_paid(self, won: Won) -> None:
        """The price has moved once, the fee was taken once, the asset is the winner's."""
        assert await self.buckets(won.winner) == (FUNDS_MINOR - PRICE_MINOR, 0, 0)
        assert await self.buckets(won.auction.seller) == (PRICE_MINOR - FEE_MINOR, 0, 0)
        asset = await self.market.asset(won.auction)
        assert (asset.owner_user_id, asset.locked_by) == (won.winner.user_id, "")

    async def assert_rolled_back(self, won: Won) -> None:
        """Nothing has moved, and nothing is held or locked."""
        assert await self.buckets(won.winner) == (FUNDS_MINOR, 0, 0)
        assert await self.buckets(won.auction.seller) == (0, 0, 0)
        asset = await self.market.asset(won.auction)
        assert (asset.owner_user_id, asset.locked_by) == (won.auction.seller.user_id, "")


@asynccontextmanager
async def town(
    folder: Path,
    failpoints: Mapping[str, Sequence[str]] | None = None,
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[Town]:
    """A router and three cells; `failpoints` by cell are set from the start, and so are the cells' `settings`."""

    def plan(data: Path, ports: Sequence[int]) -> list[Member]:
        members = four(data, ports)
        for member in members:
            if member.name in {cell.name for cell in CELLS}:
                member.settings.update(settings or {})
            if failpoints and member.name in failpoints:
                set_failpoints(member, *failpoints[member.name])
        return members

    async with (
        Cluster(folder, plan=plan, secure=SECURE) as cluster,
        Market(cluster.router, cluster.access) as market,
    ):
        yield Town(cluster, market)
