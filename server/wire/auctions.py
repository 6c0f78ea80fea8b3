"""AuctionService: assets, auctions, bids."""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from cellbook.v1 import auction_pb2
from cells.domain.auction.asset import Asset
from cells.domain.auction.auction import Auction, AuctionState, Bid
from cells.domain.commands import CancelAuction, CloseAuction, CreateAuction, PlaceBid, RegisterAsset
from cells.domain.refusals import Refused
from cells.requests import Outcome, Read
from cells.store.ports import Versioned
from server.shell.calls.statuses import to_status
from server.shell.fields.bounds import (
    AHEAD,
    DESCRIPTION,
    EXTENSION,
    INCREMENT,
    SETTLEMENT_TIMEOUT,
    number_in,
    text_in,
)
from server.wire.common import (
    asset_name,
    auction_name,
    enum_table,
    id_to_proto,
    money_to_proto,
    page_token_to_proto,
    parse_enum,
    parse_local_id,
    parse_money,
    parse_name,
    parse_uuid,
    put_receipt,
    receipt_to_proto,
    token_to_proto,
)

STATES = enum_table(AuctionState, "AUCTION_STATE_", auction_pb2.AuctionState.items())
_STATES_OUT = {state: auction_pb2.AuctionState.Value(f"AUCTION_STATE_{state.name}") for state in AuctionState}


# --- commands from proto ---


class NewAsset(NamedTuple):
    """An asset to register. The request does not name its owner's home."""

    owner_id: UUID
    description: str

    def owned_at(self, home: str) -> RegisterAsset:
        return RegisterAsset(owner_id=self.owner_id, owner_cell=home, description=self.description)


def parse_new_asset(request: auction_pb2.RegisterAssetRequest) -> NewAsset:
    # The whole request is checked before the owner's home is looked up.
    parse_uuid(request.command_id, "command_id")
    return NewAsset(
        parse_uuid(request.owner_user_id, "owner_user_id"),
        text_in(request.description, "description", DESCRIPTION),
    )


def parse_create_auction(request: auction_pb2.CreateAuctionRequest, here: str) -> CreateAuction:
    timeout_ms = number_in(request.settlement_timeout_ms, "settlement_timeout_ms", SETTLEMENT_TIMEOUT)
    return CreateAuction(
        asset_id=parse_local_id(request.asset, "asset", "assets", here),
        seller_id=parse_uuid(request.seller_user_id, "seller_user_id"),
        opening=parse_money(request.opening_price, "opening_price"),
        increment_minor=number_in(request.increment_minor, "increment_minor", INCREMENT) or 1,
        end_time_ms=number_in(request.end_time_ms, "end_time_ms", AHEAD),
        extension_ms=number_in(request.extension_ms, "extension_ms", EXTENSION),
        settlement_timeout_ms=timeout_ms or None,
    )


def parse_place_bid(request: auction_pb2.PlaceBidRequest) -> PlaceBid:
    """The auction may live in another cell: the bid is sent to the bidder's home."""
    auction = parse_name(request.auction, "auction", "auctions")
    return PlaceBid(
        auction_id=auction.id,
        auction_cell=auction.cell,
        bidder_id=parse_uuid(request.bidder_user_id, "bidder_user_id"),
        amount=parse_money(request.amount),
    )


def parse_bid_item(item: auction_pb2.PlaceBidRequest) -> tuple[PlaceBid, UUID]:
    command = parse_place_bid(item)
    return command, command.bidder_id


def parse_close_auction(request: auction_pb2.CloseAuctionRequest, here: str) -> CloseAuction:
    return CloseAuction(auction_id=parse_local_id(request.auction, "auction", "auctions", here), by_command=True)


def parse_cancel_auction(request: auction_pb2.CancelAuctionRequest, here: str) -> CancelAuction:
    return CancelAuction(auction_id=parse_local_id(request.auction, "auction", "auctions", here))


def parse_states(request: auction_pb2.ListAuctionsRequest) -> tuple[str, ...]:
    """The states to list; empty for all."""
    return (parse_enum(request.state, STATES, "state").value,) if request.state else ()


# --- answers to proto ---


def registered_to_proto(outcome: Outcome) -> auction_pb2.RegisterAssetResponse:
    name = asset_name(outcome.cell, outcome.result["asset_id"])
    return auction_pb2.RegisterAssetResponse(receipt=receipt_to_proto(outcome), asset=name)


def created_to_proto(outcome: Outcome) -> auction_pb2.CreateAuctionResponse:
    name = auction_name(outcome.cell, outcome.result["auction_id"])
    return auction_pb2.CreateAuctionResponse(receipt=receipt_to_proto(outcome), auction=name)


def placed_to_proto(outcome: Outcome) -> auction_pb2.PlaceBidResponse:
    response = auction_pb2.PlaceBidResponse()
    _put_placed(response, outcome)
    return response


def bids_placed_to_proto(answers: Sequence[Outcome | Refused]) -> auction_pb2.BatchPlaceBidsResponse:
    response = auction_pb2.BatchPlaceBidsResponse()
    for answer in answers:
        result = response.results.add()
        if isinstance(answer, Refused):
            result.refused.CopyFrom(to_status(answer))
        else:
            _put_placed(result.accepted, answer)
    return response


def _put_placed(response: auction_pb2.PlaceBidResponse, outcome: Outcome) -> None:
    response.bid_id = outcome.result["bid_id"]
    put_receipt(response.receipt, outcome)


def closed_to_proto(outcome: Outcome) -> auction_pb2.CloseAuctionResponse:
    result = outcome.result
    response = auction_pb2.CloseAuctionResponse(
        receipt=receipt_to_proto(outcome), state=_STATES_OUT[AuctionState(result["state"])]
    )
    if "bid_id" in result:
        response.saga_id = result["saga_id"]
        response.winning_bid.CopyFrom(
            auction_pb2.Bid(
                bid_id=result["bid_id"],
                bidder_user_id=result["bidder_id"],
                bidder_cell=result["bidder_cell"],
                amount=money_to_proto(result["currency"], result["amount_minor"]),
            )
        )
    return response


def cancelled_to_proto(outcome: Outcome) -> auction_pb2.CancelAuctionResponse:
    return auction_pb2.CancelAuctionResponse(receipt=receipt_to_proto(outcome))


def asset_to_proto(asset_id: UUID, read: Read[Asset], cell: str) -> auction_pb2.GetAssetResponse:
    asset = read.state
    return auction_pb2.GetAssetResponse(
        asset=auction_pb2.Asset(
            name=asset_name(cell, asset_id),
            description=asset.description,
            owner_user_id=str(asset.owner_id),
            owner_cell=asset.owner_cell,
            locked_by=auction_name(cell, asset.locked_by) if asset.locked_by is not None else "",
            stream_version=read.stream_version,
        ),
        token=token_to_proto(cell, read.position),
    )


def auction_read_to_proto(auction_id: UUID, read: Read[Auction], cell: str) -> auction_pb2.GetAuctionResponse:
    return auction_pb2.GetAuctionResponse(
        auction=auction_to_proto(auction_id, read.state, read.stream_version, cell),
        token=token_to_proto(cell, read.position),
    )


def listed_to_proto(rows: Sequence[tuple[UUID, Versioned]], size: int, cell: str) -> auction_pb2.ListAuctionsResponse:
    """One page of at most `size`; a further row means that there is a next page."""
    return auction_pb2.ListAuctionsResponse(
        auctions=[
            auction_to_proto(auction_id, auction, version, cell)
            for auction_id, (auction, version) in rows[:size]
            if isinstance(auction, Auction)
        ],
        next_page_token=page_token_to_proto(rows[size - 1][0]) if len(rows) > size else "",
    )


def auction_to_proto(auction_id: UUID, auction: Auction, stream_version: int, cell: str) -> auction_pb2.Auction:
    highest = auction.highest_bid
    return auction_pb2.Auction(
        name=auction_name(cell, auction_id),
        asset=asset_name(cell, auction.asset_id),
        seller_user_id=str(auction.seller_id),
        seller_cell=auction.seller_cell,
        state=_STATES_OUT[auction.state],
        opening_price=money_to_proto(auction.currency, auction.opening_minor),
        increment_minor=auction.increment_minor,
        end_time_ms=auction.end_time_ms,
        highest_bid=_bid_to_proto(highest, auction.currency) if highest is not None else None,
        bids_accepted=auction.bids_accepted,
        escrow_minor=auction.escrow_minor,
        saga_id=id_to_proto(auction.saga_id),
        stream_version=stream_version,
        extension_ms=auction.extension_ms,
        settlement_timeout_ms=auction.settlement_timeout_ms,
    )


def _bid_to_proto(bid: Bid, currency: str) -> auction_pb2.Bid:
    return auction_pb2.Bid(
        bid_id=str(bid.bid_id),
        bidder_user_id=str(bid.bidder_id),
        bidder_cell=bid.bidder_cell,
        amount=money_to_proto(currency, bid.amount_minor),
    )
