"""AuctionService."""

from collections.abc import AsyncGenerator
from functools import partial
from typing import cast
from uuid import UUID

from cellbook.v1 import auction_pb2 as pb
from cellbook.v1.auction_pb2_grpc import AuctionServiceServicer
from cells.audit.history.questions import History
from cells.cell import Cell
from cells.domain import commands
from cells.store.ports import Clock
from cells.watch.changes import Update
from cells.watch.feed import AuctionFeed
from server.services.audit_parts import Context
from server.services.commands import Executor, command, reader, then_or_now
from server.shell.fields.bounds import DESCRIPTION, POSITION_OR_NONE, number_in, text_in
from server.shell.fields.parse import parse_page_size, parse_uuid
from server.wire import auctions as wire
from server.wire.convert import answered
from server.wire.fields import asset_name, auction_name, parse_local_id
from server.wire.pages import BY_ID

PLACE_BID = "/cellbook.v1.AuctionService/PlaceBid"

_read_bid = reader(commands.PlaceBid, pb.PlaceBidRequest, user="bidder_id")


class AuctionServicer(AuctionServiceServicer):
    def __init__(self, cell: Cell, clock: Clock, history: History) -> None:
        self._cell = cell
        self._history = history
        self._feed = AuctionFeed(cell=cell, history=history, encode=self._encoded)
        self.executor = Executor(cell, clock)
        self._execute = self.executor.execute

    async def RegisterAsset(self, request: pb.RegisterAssetRequest, _context: Context) -> pb.RegisterAssetResponse:
        # The whole request is checked before the owner's home is looked up.
        parse_uuid(request.command_id, "command_id")
        owner_id = parse_uuid(request.owner_user_id, "owner_user_id")
        description = text_in(request.description, "description", DESCRIPTION)
        home = await self._cell.home_of(owner_id)
        wanted = commands.RegisterAsset(owner_id=owner_id, owner_cell=home, description=description)
        outcome = await self._execute(request, wanted, owner_id)
        return answered(pb.RegisterAssetResponse, outcome, asset=asset_name(outcome.cell, outcome.result.asset_id))

    async def GetAsset(self, request: pb.GetAssetRequest, _context: Context) -> pb.GetAssetResponse:
        asset_id = self._id(request.name, "name", "assets")
        then, now = partial(self._history.asset, asset_id), partial(self._cell.asset, asset_id)
        return wire.asset_to_proto(asset_id, *await then_or_now(request, then, now), self._cell.name)

    async def CreateAuction(self, request: pb.CreateAuctionRequest, _context: Context) -> pb.CreateAuctionResponse:
        create = wire.parse_create_auction(request, self._cell.name)
        outcome = await self._execute(request, create, create.seller_id)
        name = auction_name(outcome.cell, outcome.result.auction_id)
        return answered(pb.CreateAuctionResponse, outcome, auction=name)

    async def GetAuction(self, request: pb.GetAuctionRequest, _context: Context) -> pb.GetAuctionResponse:
        auction_id = self._id(request.name, "name", "auctions")
        then, now = partial(self._history.auction, auction_id), partial(self._cell.auction, auction_id)
        return wire.auction_read_to_proto(auction_id, *await then_or_now(request, then, now), self._cell.name)

    async def ListAuctions(self, request: pb.ListAuctionsRequest, _context: Context) -> pb.ListAuctionsResponse:
        states, size = wire.parse_states(request), parse_page_size(request.page_size)
        # One row more than the page tells whether there is a next page.
        rows = await self._cell.list_auctions(states=states, after=BY_ID.parse(request.page_token), limit=size + 1)
        return wire.listed_to_proto(rows, size, self._cell.name)

    def WatchAuction(
        self, request: pb.WatchAuctionRequest, _context: Context
    ) -> AsyncGenerator[pb.WatchAuctionResponse, None]:
        auction_id = self._id(request.auction, "auction", "auctions")
        position = number_in(request.from_position, "from_position", POSITION_OR_NONE)
        # The same bytes go to all watchers: serialized once.
        return cast("AsyncGenerator[pb.WatchAuctionResponse, None]", self._feed.watch(auction_id, position))

    def _encoded(self, update: Update) -> bytes:
        return wire.update_to_proto(update, self._cell.name, self._cell.time.steady_ms()).SerializeToString()

    # The auction may live in another cell: the bid is sent to the bidder's home.
    PlaceBid = command(commands.PlaceBid, pb.PlaceBidRequest, pb.PlaceBidResponse, user="bidder_id")

    async def BatchPlaceBids(self, request: pb.BatchPlaceBidsRequest, _context: Context) -> pb.BatchPlaceBidsResponse:
        return await self.executor.answer_all(pb.BatchPlaceBidsResponse(), request.items, _read_bid, PLACE_BID)

    async def CloseAuction(self, request: pb.CloseAuctionRequest, _context: Context) -> pb.CloseAuctionResponse:
        close = commands.CloseAuction(auction_id=self._id(request.auction, "auction", "auctions"), by_command=True)
        return wire.closed_to_proto(await self._execute(request, close, None))

    async def CancelAuction(self, request: pb.CancelAuctionRequest, _context: Context) -> pb.CancelAuctionResponse:
        cancel = commands.CancelAuction(auction_id=self._id(request.auction, "auction", "auctions"))
        return answered(pb.CancelAuctionResponse, await self._execute(request, cancel, None))

    def _id(self, name: str, field: str, collection: str) -> UUID:
        return parse_local_id(name, field, collection, self._cell.name)
