"""Cells and a router that do nothing but say who they are and where users live, for those who look for the way."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NoReturn
from uuid import uuid4

import grpc
import grpc.aio

from cellbook.v1 import auction_pb2, event_pb2, ledger_pb2, router_pb2, types_pb2
from cellbook.v1.auction_pb2_grpc import AuctionServiceServicer, add_AuctionServiceServicer_to_server
from cellbook.v1.event_pb2_grpc import EventServiceServicer, add_EventServiceServicer_to_server
from cellbook.v1.ledger_pb2_grpc import LedgerServiceServicer, add_LedgerServiceServicer_to_server
from cellbook.v1.router_pb2_grpc import RouterServiceServicer, add_RouterServiceServicer_to_server
from cells.domain.refusals import AuctionNotFound, FieldInvalid, Refused, UserNotFound, WrongCell
from router.client import Client as SmartClient
from router.directory.cells import CellEntry
from server.shell.calls.statuses import code_of, details_metadata, of_status, to_status
from tests.integration.router.rig import Client, FakeServer, new_user, router
from tests.integration.services_rig import SHOP, Calls

Context = grpc.aio.ServicerContext[Any, Any]


async def refuse(context: Context, refused: Refused) -> NoReturn:
    status = to_status(refused)
    context.set_trailing_metadata((*context.trailing_metadata(), *details_metadata(status)))
    await context.abort(code_of(type(refused)), status.message)
    raise AssertionError("abort raises")


US, EU = "us-east", "eu-west"


@dataclass(slots=True)
class Truth:
    """Who is at home where since which epoch, as the cells know it."""

    homes: dict[str, tuple[str, int]] = field(default_factory=dict)

    def add(self, cell: str) -> str:
        user = str(uuid4())
        self.homes[user] = (cell, 1)
        return user

    def move(self, user: str, cell: str) -> None:
        self.homes[user] = (cell, self.homes[user][1] + 1)


class WayCell(FakeServer, LedgerServiceServicer, AuctionServiceServicer, EventServiceServicer):
    """Each answer's token names the cell; calls are counted by method."""

    def __init__(self, name: str, truth: Truth) -> None:
        super().__init__()
        self.name = name
        self.truth = truth
        self.calls: Counter[str] = Counter()
        self.metadata: dict[str, str | bytes] = {}
        self.time_left_s: float | None = None
        self.endless = asyncio.Event()
        self.given_up = asyncio.Event()

    def add_to(self, server: grpc.aio.Server) -> None:
        add_LedgerServiceServicer_to_server(self, server)
        add_AuctionServiceServicer_to_server(self, server)
        add_EventServiceServicer_to_server(self, server)

    @property
    def entry(self) -> CellEntry:
        """As the router's settings name it: the region is what the name begins with."""
        return CellEntry(name=self.name, region=self.name.partition("-")[0], endpoints=(self.address,))

    @property
    def token(self) -> types_pb2.PositionToken:
        return types_pb2.PositionToken(cell=self.name)

    def wrong(self, user_id: str) -> Refused | None:
        cell, epoch = self.truth.homes.get(user_id, ("", 0))
        if cell == self.name:
            return None
        if not cell:
            return UserNotFound(user_id=user_id)
        return WrongCell(resource=f"user {user_id}", cell=cell, here=self.name, epoch=epoch)

    def _came(self, method: str, context: Context) -> None:
        self.calls[method] += 1
        self.metadata = dict(context.invocation_metadata() or ())
        self.time_left_s = context.time_remaining()

    async def OpenAccount(
        self, request: ledger_pb2.OpenAccountRequest, context: Context
    ) -> ledger_pb2.OpenAccountResponse:
        self._came("OpenAccount", context)
        self.truth.homes[request.user_id] = (self.name, request.home_epoch)
        return ledger_pb2.OpenAccountResponse()

    async def GetBalance(
        self, request: ledger_pb2.GetBalanceRequest, context: Context
    ) -> ledger_pb2.GetBalanceResponse:
        self._came("GetBalance", context)
        await context.send_initial_metadata((("said-first", self.name),))
        context.set_trailing_metadata((("said-last", self.name), ("said-bin", b"\x00\xff")))
        if (wrong := self.wrong(request.user_id)) is not None:
            await refuse(context, wrong)
        return ledger_pb2.GetBalanceResponse(user_id=request.user_id, token=self.token)

    async def BatchDeposit(
        self, request: ledger_pb2.BatchDepositRequest, context: Context
    ) -> ledger_pb2.BatchDepositResponse:
        self._came("BatchDeposit", context)
        results = []
        for index, item in enumerate(request.items):
            refused = self.wrong(item.user_id)
            if refused is None and item.amount.amount_minor < 0:
                refused = FieldInvalid(field=f"items[{index}].amount", problem="is negative", value="-1")
            if refused is not None:
                results.append(ledger_pb2.DepositResult(refused=to_status(refused)))
            else:
                receipt = types_pb2.CommandReceipt(command_id=item.command_id, token=self.token)
                accepted = ledger_pb2.DepositResponse(receipt=receipt)
                results.append(ledger_pb2.DepositResult(accepted=accepted))
        return ledger_pb2.BatchDepositResponse(results=results)

    async def GetCommand(
        self, request: ledger_pb2.GetCommandRequest, context: Context
    ) -> ledger_pb2.GetCommandResponse:
        self._came("GetCommand", context)
        return ledger_pb2.GetCommandResponse(command_id=request.command_id, token=self.token)

    async def GetAuction(
        self, request: auction_pb2.GetAuctionRequest, context: Context
    ) -> auction_pb2.GetAuctionResponse:
        self._came("GetAuction", context)
        if not request.name:
            await refuse(context, FieldInvalid(field="name", problem="is missing", value=""))
        if request.name.endswith("/none"):
            await refuse(context, AuctionNotFound(auction_id="none", cell=self.name))
        return auction_pb2.GetAuctionResponse(auction=auction_pb2.Auction(name=request.name), token=self.token)

    async def ListAuctions(
        self, _request: auction_pb2.ListAuctionsRequest, context: Context
    ) -> auction_pb2.ListAuctionsResponse:
        """Never answers."""
        self._came("ListAuctions", context)
        try:
            await asyncio.Event().wait()
        finally:
            self.given_up.set()
        raise AssertionError("nobody sets it")

    async def Subscribe(
        self, request: event_pb2.SubscribeRequest, context: Context
    ) -> AsyncIterator[event_pb2.SubscribeResponse]:
        """Ten positions, and the end; from 0 on without end."""
        self._came("Subscribe", context)
        first = request.from_position
        try:
            for position in range(first, first + 10):
                yield event_pb2.SubscribeResponse(event=event_pb2.Event(cell=self.name, position=position))
            if first == 0:
                await asyncio.Event().wait()
        finally:
            self.given_up.set()

    async def WatchAuction(
        self, request: auction_pb2.WatchAuctionRequest, context: Context
    ) -> AsyncIterator[auction_pb2.WatchAuctionResponse]:
        """One item, and the end; from 0 on large ones without end."""
        self._came("WatchAuction", context)
        first = request.from_position
        auction = auction_pb2.Auction(name=request.auction, asset="" if first else "x" * 4096)
        try:
            for position in count(first) if first == 0 else (first,):
                yield auction_pb2.WatchAuctionResponse(auction=auction, next_position=position)
        finally:
            self.given_up.set()


@dataclass
class WayRouter(FakeServer, RouterServiceServicer):
    """Says of users what it was told, which may be long ago."""

    homes: dict[str, tuple[str, int]]
    cells: dict[str, list[str]]
    resolved: Counter[str] = field(default_factory=Counter)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def add_to(self, server: grpc.aio.Server) -> None:
        add_RouterServiceServicer_to_server(self, server)

    async def ResolveUser(
        self, request: router_pb2.ResolveUserRequest, context: Context
    ) -> router_pb2.ResolveUserResponse:
        self.resolved[request.user_id] += 1
        if request.user_id not in self.homes:
            await refuse(context, UserNotFound(user_id=request.user_id))
        cell, epoch = self.homes[request.user_id]
        return router_pb2.ResolveUserResponse(
            home=router_pb2.Home(user_id=request.user_id, cell=cell, epoch=epoch),
            cell=router_pb2.Cell(name=cell, endpoints=self.cells[cell]),
        )

    async def ListCells(self, _request: router_pb2.ListCellsRequest, _context: Context) -> router_pb2.ListCellsResponse:
        return router_pb2.ListCellsResponse(cells=self._all())

    async def WatchTopology(
        self, _request: router_pb2.WatchTopologyRequest, _context: Context
    ) -> AsyncIterator[router_pb2.WatchTopologyResponse]:
        while True:
            changed = self.changed
            yield router_pb2.WatchTopologyResponse(cells=self._all())
            await changed.wait()

    def tell(self) -> None:
        """Watchers hear of the cells as they are now."""
        self.changed.set()
        self.changed = asyncio.Event()

    def _all(self) -> list[router_pb2.Cell]:
        return [router_pb2.Cell(name=name, endpoints=endpoints) for name, endpoints in self.cells.items()]


@asynccontextmanager
async def way_cells(truth: Truth, *names: str) -> AsyncIterator[dict[str, WayCell]]:
    running = {name: WayCell(name, truth) for name in names}  # type: ignore[abstract]
    try:
        for cell in running.values():
            await cell.start()
        yield running
    finally:
        await asyncio.gather(*(cell.stop() for cell in running.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Way(Calls):
    """A way to two cells."""

    cells: dict[str, WayCell]
    truth: Truth
    router: Client
    channel: grpc.aio.Channel

    async def user(self, cell: str) -> str:
        user = new_user()
        await self.router.register(user, cell.partition("-")[0])
        return user

    async def balance(self, user: str, **how: Any) -> ledger_pb2.GetBalanceResponse:  # noqa: ANN401 - as of any call
        answer: ledger_pb2.GetBalanceResponse = await self.ask("GetBalance", user_id=user, **{"by": SHOP, **how})
        return answer

    async def deposit(self, *users: str, amount_minor: int = 1) -> list[str]:
        """Of each item of a batch: the cell that accepted it, or the reason and the field why not."""
        amount = types_pb2.Money(currency="USD", amount_minor=amount_minor)
        items = [ledger_pb2.DepositRequest(command_id=new_user(), user_id=user, amount=amount) for user in users]
        answer = await self.ask("BatchDeposit", items=items, by=SHOP)
        said = []
        for item, result in zip(items, answer.results, strict=True):
            refusal = of_status(result.refused) if result.HasField("refused") else None
            if refusal is not None:
                said.append(f"{refusal.reason} {refusal.facts.get('field', '')}".strip())
            else:
                assert result.accepted.receipt.command_id == item.command_id
                said.append(result.accepted.receipt.token.cell)
        return said

    def calls(self, method: str) -> list[int]:
        return [self.cells[cell].calls[method] for cell in (US, EU)]


@asynccontextmanager
async def way_to_cells(dsn: str, *, smart: bool) -> AsyncIterator[Way]:
    """Over a real router, and a smart client of it."""
    truth = Truth()
    async with AsyncExitStack() as stack:
        cells = await stack.enter_async_context(way_cells(truth, US, EU))
        directory = await stack.enter_async_context(router(dsn, cells.values()))
        channel = directory.channel
        if smart:
            channel = (
                await stack.enter_async_context(SmartClient(directory.address, principal="service/shop"))
            ).channel
        yield Way(
            cells=cells,
            truth=truth,
            router=directory,
            channel=channel,
        )
