"""AuctionService."""

from typing import Any

import grpc.aio

from cellbook.v1 import auction_pb2 as pb
from cellbook.v1.auction_pb2_grpc import AuctionServiceServicer
from cells.audit.history.questions import History
from cells.cell import Cell
from cells.store.ports import Clock
from server.services.audit_parts import map_store_errors
from server.services.executor import Executor
from server.wire import auctions as wire
from server.wire import history as of_then
from server.wire.common import parse_local_id, parse_page

PLACE_BID = "/cellbook.v1.AuctionService/PlaceBid"

Context = grpc.aio.ServicerContext[Any, Any]


class AuctionServicer(AuctionServiceServicer):
    def __init__(self, cell: Cell, clock: Clock, history: History) -> None:
        self._cell = cell
        self._history = history
        executor = Executor(cell, clock)
        self._execute, self._execute_all = executor.execute, executor.execute_all

    async def RegisterAsset(self, request: pb.RegisterAssetRequest, _context: Context) -> pb.RegisterAssetResponse:
        asset = wire.parse_new_asset(request)
        home = await self._cell.home_of(asset.owner_id)
        outcome = await self._execute(request, asset.owned_at(home), asset.owner_id)
        return wire.registered_to_proto(outcome)

    async def GetAsset(self, request: pb.GetAssetRequest, _context: Context) -> pb.GetAssetResponse:
        asset_id = parse_local_id(request.name, "name", "assets", self._cell.name)
        if request.HasField("as_of"):
            past = await map_store_errors(self._history.asset(asset_id, of_then.parse_moment(request.as_of)))
            return of_then.asset_to_proto(asset_id, past, self._cell.name)
        return wire.asset_to_proto(asset_id, await self._cell.asset(asset_id), self._cell.name)

    async def CreateAuction(self, request: pb.CreateAuctionRequest, _context: Context) -> pb.CreateAuctionResponse:
        command = wire.parse_create_auction(request, self._cell.name)
        outcome = await self._execute(request, command, command.seller_id)
        return wire.created_to_proto(outcome)

    async def GetAuction(self, request: pb.GetAuctionRequest, _context: Context) -> pb.GetAuctionResponse:
        auction_id = parse_local_id(request.name, "name", "auctions", self._cell.name)
        if request.HasField("as_of"):
            past = await map_store_errors(self._history.auction(auction_id, of_then.parse_moment(request.as_of)))
            return of_then.auction_to_proto(auction_id, past, self._cell.name)
        return wire.auction_read_to_proto(auction_id, await self._cell.auction(auction_id), self._cell.name)

    async def ListAuctions(self, request: pb.ListAuctionsRequest, _context: Context) -> pb.ListAuctionsResponse:
        states, page = wire.parse_states(request), parse_page(request.page_size, request.page_token)
        # One row more than the page tells whether there is a next page.
        rows = await self._cell.list_auctions(states=states, after=page.after, limit=page.size + 1)
        return wire.listed_to_proto(rows, page.size, self._cell.name)

    async def PlaceBid(self, request: pb.PlaceBidRequest, _context: Context) -> pb.PlaceBidResponse:
        command = wire.parse_place_bid(request)
        outcome = await self._execute(request, command, command.bidder_id)
        return wire.placed_to_proto(outcome)

    async def BatchPlaceBids(self, request: pb.BatchPlaceBidsRequest, _context: Context) -> pb.BatchPlaceBidsResponse:
        answers = await self._execute_all(request.items, wire.parse_bid_item, PLACE_BID)
        return wire.bids_placed_to_proto(answers)

    async def CloseAuction(self, request: pb.CloseAuctionRequest, _context: Context) -> pb.CloseAuctionResponse:
        command = wire.parse_close_auction(request, self._cell.name)
        return wire.closed_to_proto(await self._execute(request, command, None))

    async def CancelAuction(self, request: pb.CancelAuctionRequest, _context: Context) -> pb.CancelAuctionResponse:
        command = wire.parse_cancel_auction(request, self._cell.name)
        return wire.cancelled_to_proto(await self._execute(request, command, None))
