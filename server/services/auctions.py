"""AuctionService: assets, auctions, bids."""

from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import cast
from uuid import UUID

from cellbook.v1 import auction_pb2 as pb
from cellbook.v1.auction_pb2_grpc import AuctionServiceServicer
from cells.audit.history.moments import Point
from cells.audit.history.questions import History
from cells.cell import Cell
from cells.domain import commands
from cells.domain.auction.asset import Asset
from cells.domain.auction.auction import Auction, AuctionState, Bid
from cells.domain.commands import CreateAuction
from cells.domain.results import Sold
from cells.domain.values import Money
from cells.requests import Outcome, Read
from cells.store.ports import Clock, Versioned
from cells.watch.changes import Change, Update
from cells.watch.feed import AuctionFeed
from server.services.audit_parts import Context
from server.services.commands import Executor, command, reader, then_or_now
from server.shell.fields.bounds import DESCRIPTION, INCREMENT, POSITION_OR_NONE, number_in, text_in
from server.shell.fields.parse import parse_page_size, parse_uuid
from server.wire.convert import answered, members, parse, parse_enum, to_proto
from server.wire.fields import asset_name, auction_name, parse_local_id, parse_money
from server.wire.history import read_at
from server.wire.pages import BY_ID, cut

STATES = members(pb.AuctionState.DESCRIPTOR, AuctionState)
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
        return asset_to_proto(asset_id, *await then_or_now(request, then, now), self._cell.name)

    async def CreateAuction(self, request: pb.CreateAuctionRequest, _context: Context) -> pb.CreateAuctionResponse:
        create = parse_create_auction(request, self._cell.name)
        outcome = await self._execute(request, create, create.seller_id)
        name = auction_name(outcome.cell, outcome.result.auction_id)
        return answered(pb.CreateAuctionResponse, outcome, auction=name)

    async def GetAuction(self, request: pb.GetAuctionRequest, _context: Context) -> pb.GetAuctionResponse:
        auction_id = self._id(request.name, "name", "auctions")
        then, now = partial(self._history.auction, auction_id), partial(self._cell.auction, auction_id)
        return auction_read_to_proto(auction_id, *await then_or_now(request, then, now), self._cell.name)

    async def ListAuctions(self, request: pb.ListAuctionsRequest, _context: Context) -> pb.ListAuctionsResponse:
        states, size = parse_states(request), parse_page_size(request.page_size)
        # One row more than the page tells whether there is a next page.
        rows = await self._cell.list_auctions(states=states, after=BY_ID.parse(request.page_token), limit=size + 1)
        return listed_to_proto(rows, size, self._cell.name)

    def WatchAuction(
        self, request: pb.WatchAuctionRequest, _context: Context
    ) -> AsyncGenerator[pb.WatchAuctionResponse, None]:
        auction_id = self._id(request.auction, "auction", "auctions")
        position = number_in(request.from_position, "from_position", POSITION_OR_NONE)
        # The same bytes go to all watchers: serialized once.
        return cast("AsyncGenerator[pb.WatchAuctionResponse, None]", self._feed.watch(auction_id, position))

    def _encoded(self, update: Update) -> bytes:
        return update_to_proto(update, self._cell.name, self._cell.time.steady_ms()).SerializeToString()

    # The auction may live in another cell: the bid is sent to the bidder's home.
    PlaceBid = command(commands.PlaceBid, pb.PlaceBidRequest, pb.PlaceBidResponse, user="bidder_id")

    async def BatchPlaceBids(self, request: pb.BatchPlaceBidsRequest, _context: Context) -> pb.BatchPlaceBidsResponse:
        return await self.executor.answer_all(pb.BatchPlaceBidsResponse(), request.items, _read_bid, PLACE_BID)

    async def CloseAuction(self, request: pb.CloseAuctionRequest, _context: Context) -> pb.CloseAuctionResponse:
        close = commands.CloseAuction(auction_id=self._id(request.auction, "auction", "auctions"), by_command=True)
        return closed_to_proto(await self._execute(request, close, None))

    async def CancelAuction(self, request: pb.CancelAuctionRequest, _context: Context) -> pb.CancelAuctionResponse:
        cancel = commands.CancelAuction(auction_id=self._id(request.auction, "auction", "auctions"))
        return answered(pb.CancelAuctionResponse, await self._execute(request, cancel, None))

    def _id(self, name: str, field: str, collection: str) -> UUID:
        return parse_local_id(name, field, collection, self._cell.name)


# --- on the wire -----------------------------------------------------------------------------------------------------


def parse_create_auction(request: pb.CreateAuctionRequest, here: str) -> CreateAuction:
    return parse(
        CreateAuction,
        request,
        asset_id=parse_local_id(request.asset, "asset", "assets", here),
        opening=parse_money(request.opening_price, "opening_price"),
        increment_minor=number_in(request.increment_minor, "increment_minor", INCREMENT) or 1,
    )


def parse_states(request: pb.ListAuctionsRequest) -> tuple[str, ...]:
    """The states to list; empty for all."""
    return (parse_enum(STATES, request.state, "state").value,) if request.state else ()


def closed_to_proto(outcome: Outcome) -> pb.CloseAuctionResponse:
    sold = outcome.result if isinstance(outcome.result, Sold) else None
    saga_id = sold.saga_id if sold is not None else None
    return answered(pb.CloseAuctionResponse, outcome, winning_bid=sold, saga_id=saga_id)


def asset_to_proto(asset_id: UUID, read: Read[Asset], point: Point | None, cell: str) -> pb.GetAssetResponse:
    asset, locked_by = read.state, read.state.locked_by
    message = to_proto(
        pb.Asset,
        asset,
        name=asset_name(cell, asset_id),
        locked_by=auction_name(cell, locked_by) if locked_by is not None else "",
        stream_version=read.stream_version,
    )
    return to_proto(pb.GetAssetResponse, asset=message, **read_at(read, point, cell))


def auction_read_to_proto(
    auction_id: UUID, read: Read[Auction], point: Point | None, cell: str
) -> pb.GetAuctionResponse:
    message = auction_to_proto(auction_id, read.state, read.stream_version, cell)
    return to_proto(pb.GetAuctionResponse, auction=message, **read_at(read, point, cell))


def listed_to_proto(rows: Sequence[tuple[UUID, Versioned]], size: int, cell: str) -> pb.ListAuctionsResponse:
    page, last = cut(rows, size)
    return pb.ListAuctionsResponse(
        auctions=[
            auction_to_proto(auction_id, auction, version, cell)
            for auction_id, (auction, version) in page
            if isinstance(auction, Auction)
        ],
        next_page_token=BY_ID.token(last[0] if last is not None else None),
    )


def auction_to_proto(auction_id: UUID, auction: Auction, stream_version: int, cell: str) -> pb.Auction:
    currency = auction.currency
    return to_proto(
        pb.Auction,
        auction,
        name=auction_name(cell, auction_id),
        asset=asset_name(cell, auction.asset_id),
        opening_price=Money(currency, auction.opening_minor),
        highest_bid=_bid_to_proto(auction.highest_bid, currency),
        stream_version=stream_version,
    )


def update_to_proto(update: Update, cell: str, cell_time_ms: int) -> pb.WatchAuctionResponse:
    auction = update.auction
    return pb.WatchAuctionResponse(
        changes=[_change_to_proto(change, auction.currency) for change in update.changes],
        left_out=update.left_out,
        auction=auction_to_proto(update.auction_id, auction, update.stream_version, cell),
        next_position=update.position + 1,
        cell_time_ms=cell_time_ms,
    )


def _change_to_proto(change: Change, currency: str) -> pb.AuctionChange:
    bid, outbid = _bid_to_proto(change.bid, currency), _bid_to_proto(change.outbid, currency)
    return to_proto(pb.AuctionChange, change, bid=bid, outbid=outbid)


def _bid_to_proto(bid: Bid | None, currency: str) -> pb.Bid | None:
    return to_proto(pb.Bid, bid, amount=Money(currency, bid.amount_minor)) if bid is not None else None
