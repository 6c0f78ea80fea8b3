"""The operations of a marketplace, one call each: registration through the router, all else directly to the cells."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar
from uuid import uuid4

from google.protobuf.message import Message

from cellbook.v1 import auction_pb2, audit_pb2, event_pb2, ledger_pb2, router_pb2, saga_pb2
from cellbook.v1.types_pb2 import Money
from server.cli.access import PLAIN, Access
from server.cli.client import BANK, MARKET, CellStubs, Client, ClientError, new_command_id

AUDITOR = "auditor/demo"

# Auctions are closed by command here, never by time: they would end this far ahead.
LASTS_MS = 300 * 86_400_000
PAGE_SIZE = 1000
SETTLE_TIMEOUT_S = 120.0
POLL_S = 0.05
QUIET_LOOKS = 2

Reply = TypeVar("Reply", bound=Message)
ByBank = TypeVar("ByBank", ledger_pb2.DepositRequest, ledger_pb2.WithdrawRequest)

UNDER_WAY = (saga_pb2.SAGA_STATE_RUNNING, saga_pb2.SAGA_STATE_COMMITTED, saga_pb2.SAGA_STATE_COMPENSATING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A user and the user's home cell. `label` is our name for the user; the ledger knows only the id."""

    label: str
    user_id: str
    cell: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAuction:
    """An auction that we opened. `name` is its resource name, which includes its cell."""

    name: str
    asset: str
    cell: str
    seller: Person


@dataclass(frozen=True, slots=True, kw_only=True)
class Won:
    """An auction whose leading bidder has bid `price_minor`. It is not closed yet."""

    auction: OpenAuction
    winner: Person
    price_minor: int


def whole(balance: ledger_pb2.Balance) -> int:
    return balance.available_minor + balance.reserved_minor + balance.pending_minor


def _by_bank(request: ByBank, person: Person, currency: str, amount_minor: int) -> ByBank:
    request.command_id = request.command_id or new_command_id()
    request.user_id, request.external_reference = person.user_id, f"bank/{request.command_id}"
    request.amount.CopyFrom(Money(currency=currency, amount_minor=amount_minor))
    return request


def bid_request(bidder: Person, auction: OpenAuction, currency: str, amount_minor: int) -> auction_pb2.PlaceBidRequest:
    return auction_pb2.PlaceBidRequest(
        command_id=new_command_id(),
        auction=auction.name,
        bidder_user_id=bidder.user_id,
        amount=Money(currency=currency, amount_minor=amount_minor),
    )


class Market:
    """One marketplace over the cells that a router lists."""

    def __init__(self, router: str, access: Access = PLAIN) -> None:
        self.client = Client(router, access)
        self.cells: dict[str, CellStubs] = {}

    async def __aenter__(self) -> Self:
        reply = await self.client.call(self.client.router.ListCells, router_pb2.ListCellsRequest(), MARKET)
        for cell in reply.cells:
            self._learn(cell)
        if not self.cells:
            raise ClientError("the router lists no cells")
        return self

    async def __aexit__(self, *how: object) -> None:
        await self.client.__aexit__(*how)

    @property
    def cell_names(self) -> list[str]:
        return list(self.cells)

    async def register(self, label: str, cell: str) -> Person:
        """Registers a new user in the region of `cell`; the router's answer names the user's home."""
        request = router_pb2.RegisterUserRequest(user_id=str(uuid4()), region=self.cells[cell].region)
        reply = await self.client.call(self.client.router.RegisterUser, request, MARKET)
        self._learn(reply.cell)
        return Person(label=label, user_id=request.user_id, cell=reply.home.cell)

    async def person(self, label: str, cell: str, funds_minor: int, currency: str = "USD") -> Person:
        """Registers a new user with money."""
        person = await self.register(label, cell)
        await self.deposit(person, currency, funds_minor)
        return person

    async def won(
        self,
        label: str,
        *,
        winner_cell: str,
        auction_cell: str,
        seller_cell: str,
        funds_minor: int,
        price_minor: int,
        bids: int = 1,
        settlement_timeout_ms: int = 0,
    ) -> Won:
        """A new winner with `funds_minor` leads a new seller's auction, in which each bid exceeded the last by 1."""
        winner = await self.person(f"winner of {label}", winner_cell, funds_minor)
        seller = await self.register(f"seller of {label}", seller_cell)
        timeout_ms = settlement_timeout_ms
        auction = await self.open_auction(auction_cell, seller, label, "USD", 100, settlement_timeout_ms=timeout_ms)
        for amount_minor in range(price_minor - bids + 1, price_minor + 1):
            await self.bid(winner, auction, "USD", amount_minor)
        return Won(auction=auction, winner=winner, price_minor=price_minor)

    async def home(self, user_id: str) -> str:
        """The name of the user's home cell, from the router."""
        request = router_pb2.ResolveUserRequest(user_id=user_id)
        return (await self.client.call(self.client.router.ResolveUser, request, MARKET)).home.cell

    async def deposit(
        self, person: Person, currency: str, amount_minor: int, *, command_id: str = ""
    ) -> ledger_pb2.DepositResponse:
        """Brings money in. The bank's reference is derived from the command's id, so a repeat has the same one."""
        request = _by_bank(ledger_pb2.DepositRequest(command_id=command_id), person, currency, amount_minor)
        return await self._command(person.cell, self.cells[person.cell].ledger.Deposit, request, BANK)

    async def withdraw(self, person: Person, currency: str, amount_minor: int) -> ledger_pb2.WithdrawResponse:
        request = _by_bank(ledger_pb2.WithdrawRequest(), person, currency, amount_minor)
        return await self._command(person.cell, self.cells[person.cell].ledger.Withdraw, request, BANK)

    async def open_auction(
        self, cell: str, seller: Person, item: str, currency: str, opening_minor: int, *, settlement_timeout_ms: int = 0
    ) -> OpenAuction:
        """Registers the asset in `cell` and opens its auction there; each bid must exceed the last by at least 1.

        A timeout of 0 means the cell's own.
        """
        auctions = self.cells[cell].auctions
        registration = auction_pb2.RegisterAssetRequest(
            command_id=new_command_id(), owner_user_id=seller.user_id, description=item
        )
        asset = (await self._command(cell, auctions.RegisterAsset, registration)).asset
        creation = auction_pb2.CreateAuctionRequest(
            command_id=new_command_id(),
            asset=asset,
            seller_user_id=seller.user_id,
            opening_price=Money(currency=currency, amount_minor=opening_minor),
            increment_minor=1,
            end_time_ms=time.time_ns() // 1_000_000 + LASTS_MS,
            settlement_timeout_ms=settlement_timeout_ms,
        )
        auction = (await self._command(cell, auctions.CreateAuction, creation)).auction
        return OpenAuction(name=auction, asset=asset, cell=cell, seller=seller)

    async def bid(
        self, bidder: Person, auction: OpenAuction, currency: str, amount_minor: int
    ) -> auction_pb2.PlaceBidResponse:
        """Places a bid, in the bidder's own name and at the bidder's home. Raises LedgerRefusal."""
        return await self.send(bidder, bid_request(bidder, auction, currency, amount_minor))

    async def send(self, bidder: Person, request: auction_pb2.PlaceBidRequest) -> auction_pb2.PlaceBidResponse:
        """The same with a request that may have been sent before."""
        method = self.cells[bidder.cell].auctions.PlaceBid
        return await self._command(bidder.cell, method, request, f"user/{bidder.user_id}")

    async def close(self, auction: OpenAuction) -> auction_pb2.CloseAuctionResponse:
        request = auction_pb2.CloseAuctionRequest(command_id=new_command_id(), auction=auction.name)
        return await self._command(auction.cell, self.cells[auction.cell].auctions.CloseAuction, request)

    async def cancel(self, auction: OpenAuction) -> auction_pb2.CancelAuctionResponse:
        request = auction_pb2.CancelAuctionRequest(command_id=new_command_id(), auction=auction.name)
        return await self._command(auction.cell, self.cells[auction.cell].auctions.CancelAuction, request)

    async def auction(self, auction: OpenAuction) -> auction_pb2.Auction:
        request = auction_pb2.GetAuctionRequest(name=auction.name)
        return (await self.client.call(self.cells[auction.cell].auctions.GetAuction, request, AUDITOR)).auction

    async def asset(self, auction: OpenAuction) -> auction_pb2.Asset:
        request = auction_pb2.GetAssetRequest(name=auction.asset)
        return (await self.client.call(self.cells[auction.cell].auctions.GetAsset, request, AUDITOR)).asset

    async def balances(self, cell: str, user_id: str) -> dict[str, ledger_pb2.Balance]:
        request = ledger_pb2.GetBalanceRequest(user_id=user_id)
        reply = await self.client.call(self.cells[cell].ledger.GetBalance, request, AUDITOR)
        return {balance.currency: balance for balance in reply.balances}

    async def saga(self, cell: str, saga_id: str) -> saga_pb2.Saga:
        request = saga_pb2.GetSagaRequest(saga_id=saga_id)
        return (await self.client.call(self.cells[cell].sagas.GetSaga, request, AUDITOR)).saga

    async def wait_until_quiet(self, progress: Callable[[int], None] = lambda _: None) -> None:
        """Waits until no cell has a saga under way. `progress` receives the number left.

        A saga that ends in one cell may have started one in another that was checked before, so only a second check
        that finds nothing anywhere counts.

        Raises:
            ClientError: some are still under way after SETTLE_TIMEOUT_S; the message names a few.
        """
        quiet, left = 0, [saga_pb2.Saga()]
        try:
            async with asyncio.timeout(SETTLE_TIMEOUT_S):
                while quiet < QUIET_LOOKS:
                    left = await self.under_way()
                    progress(len(left))
                    quiet = 0 if left else quiet + 1
                    await asyncio.sleep(POLL_S if left else 0)
        except TimeoutError as error:
            few = "; ".join(f"{saga.saga_id}: {saga.last_error or 'no error'}" for saga in left[:3])
            raise ClientError(f"{len(left)} sagas still under way after {SETTLE_TIMEOUT_S:.0f} s ({few})") from error

    async def under_way(self) -> list[saga_pb2.Saga]:
        """The sagas of all cells that have not ended."""
        sagas = await asyncio.gather(*(self.sagas(cell, UNDER_WAY) for cell in self.cells))
        return [saga for own in sagas for saga in own]

    async def sagas(self, cell: str, states: Sequence["saga_pb2.SagaState.ValueType"]) -> list[saga_pb2.Saga]:
        """All sagas that `cell` orchestrates in one of `states`, page by page."""
        request = saga_pb2.ListSagasRequest(states=states, page_size=PAGE_SIZE)
        sagas: list[saga_pb2.Saga] = []
        while True:
            reply = await self.client.call(self.cells[cell].sagas.ListSagas, request, AUDITOR)
            sagas.extend(reply.sagas)
            if not reply.next_page_token:
                return sagas
            request.page_token = reply.next_page_token

    async def trace(self, subject: str) -> audit_pb2.TraceResponse:
        """Its causes and effects in all cells, as one cell collects them."""
        cell = next(iter(self.cells.values()))
        return await self.client.call(cell.audit.Trace, audit_pb2.TraceRequest(subject=subject), AUDITOR)

    async def log(self, cell: str, from_position: int = 1) -> list[event_pb2.Event]:
        """The events of a cell from there on, up to where its log ended when asked."""
        every = event_pb2.EventFilter()
        return await self.client.log(self.cells[cell], every, from_position=from_position, by=AUDITOR)

    async def logs(self) -> dict[str, list[event_pb2.Event]]:
        """The events of every cell."""
        logs = await asyncio.gather(*map(self.log, self.cells))
        return dict(zip(self.cells, logs, strict=True))

    async def _command(
        self, cell: str, method: Callable[..., Awaitable[Reply]], request: Message, by: str = MARKET
    ) -> Reply:
        """Sends a command to a cell until it has ended. Raises LedgerRefusal."""
        return await self.client.call(method, request, by, self.cells[cell].ledger)

    def _learn(self, cell: router_pb2.Cell) -> None:
        if cell.name not in self.cells:
            if not cell.endpoints:
                raise ClientError(f"the router names no endpoint of cell {cell.name}")
            self.cells[cell.name] = self.client.cell_of(cell)
