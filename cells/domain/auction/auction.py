"""An ascending auction of one asset, and the escrow of its sale."""

from enum import StrEnum
from typing import assert_never
from uuid import UUID

from cells.domain import events
from cells.domain.record import Struct, replace


class AuctionState(StrEnum):
    ACTIVE = "ACTIVE"
    SETTLING = "SETTLING"
    SETTLED = "SETTLED"
    UNSOLD = "UNSOLD"
    CANCELLED = "CANCELLED"
    SETTLEMENT_FAILED = "SETTLEMENT_FAILED"


ACTIVE = AuctionState.ACTIVE


class Bid(Struct, frozen=True, kw_only=True):
    bid_id: UUID
    bidder_id: UUID
    bidder_cell: str
    amount_minor: int


class Auction(Struct, frozen=True, kw_only=True):
    asset_id: UUID
    seller_id: UUID
    seller_cell: str
    currency: str
    opening_minor: int
    increment_minor: int
    end_time_ms: int
    extension_ms: int
    settlement_timeout_ms: int
    state: AuctionState = AuctionState.ACTIVE
    # The winning bid, once bidding is over.
    highest_bid: Bid | None = None
    bids_accepted: int = 0
    escrow_minor: int = 0
    saga_id: UUID | None = None

    def least_bid_minor(self) -> int:
        """The lowest amount that the next bid may have."""
        if self.highest_bid is None:
            return self.opening_minor
        return self.highest_bid.amount_minor + self.increment_minor

    def is_active(self, now_ms: int) -> bool:
        """Whether bids are accepted at `now_ms`, even if the closing timer has not fired yet."""
        return self.state is ACTIVE and now_ms < self.end_time_ms


def evolve_auction(state: Auction | None, event: events.AuctionEvents) -> Auction:
    if isinstance(event, events.AuctionCreated):
        return Auction(
            asset_id=event.asset_id,
            seller_id=event.seller_id,
            seller_cell=event.seller_cell,
            currency=event.currency,
            opening_minor=event.opening_minor,
            increment_minor=event.increment_minor,
            end_time_ms=event.end_time_ms,
            extension_ms=event.extension_ms,
            settlement_timeout_ms=event.settlement_timeout_ms,
        )
    if state is None:
        message = f"{event.event_type} in an auction that was never created"
        raise TypeError(message)
    match event:
        case events.BidPlaced():
            return _with_bid(state, event)
        case events.AuctionClosed():
            ended = AuctionState.UNSOLD if event.saga_id is None else AuctionState.SETTLING
            return replace(state, state=ended, saga_id=event.saga_id)
        case events.AuctionCancelled():
            return replace(state, state=AuctionState.CANCELLED)
        case events.EscrowFunded() | events.EscrowRefilled():
            return replace(state, escrow_minor=state.escrow_minor + event.amount_minor)
        case events.EscrowPaidOut() | events.EscrowRefunded():
            return replace(state, escrow_minor=state.escrow_minor - event.amount_minor)
        case events.AuctionSettled():
            return replace(state, state=AuctionState.SETTLED)
        case events.SettlementFailed():
            return replace(state, state=AuctionState.SETTLEMENT_FAILED)
        case _:
            assert_never(event)


def _with_bid(state: Auction, event: events.BidPlaced) -> Auction:
    bid = Bid(
        bid_id=event.bid_id,
        bidder_id=event.bidder_id,
        bidder_cell=event.bidder_cell,
        amount_minor=event.amount_minor,
    )
    return replace(state, highest_bid=bid, bids_accepted=state.bids_accepted + 1, end_time_ms=event.end_time_ms)
