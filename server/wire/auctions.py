"""AuctionService: assets, auctions, bids."""

from collections.abc import Sequence
from uuid import UUID

from cellbook.v1 import auction_pb2 as pb
from cells.audit.history.moments import Point
from cells.domain.auction.asset import Asset
from cells.domain.auction.auction import Auction, AuctionState, Bid
from cells.domain.commands import CreateAuction
from cells.domain.results import Sold
from cells.domain.values import Money
from cells.requests import Outcome, Read
from cells.store.ports import Versioned
from cells.watch.changes import Change, Update
from server.shell.fields.bounds import INCREMENT, number_in
from server.wire.convert import answered, members, parse, parse_enum, to_proto
from server.wire.fields import asset_name, auction_name, parse_local_id, parse_money
from server.wire.history import read_at
from server.wire.pages import BY_ID, cut

STATES = members(pb.AuctionState.DESCRIPTOR, AuctionState)


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
