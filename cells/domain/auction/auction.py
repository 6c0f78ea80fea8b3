"""An ascending auction of one asset, and the escrow of its sale."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar, assert_never
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
    # The auction raises the bid up to it to answer others; None: the bid stays as it is.
    maximum_minor: int | None = None
    ADDED: ClassVar[Mapping[str, Any]] = {"maximum_minor": None}

    @property
    def limit_minor(self) -> int:
        """The most that the bidder may have to pay, and so the amount that is held."""
        return self.amount_minor if self.maximum_minor is None else self.maximum_minor

    def is_replaced_by(self, bid: "Bid") -> bool:
        """Whether `bid` is of the same bidder, by the word of the same cell.

        Another cell may say so because the bidder has moved, or to be told this bid's limit by a refusal.
        """
        return (self.bidder_id, self.bidder_cell) == (bid.bidder_id, bid.bidder_cell)


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

    def least_bid_minor(self, bid: Bid) -> int:
        """The lowest limit that `bid` may have. Nobody lowers their own."""
        leading = self.highest_bid
        if leading is None:
            return self.opening_minor
        least = leading.amount_minor + self.increment_minor
        return max(least, leading.limit_minor + 1) if leading.is_replaced_by(bid) else least

    def standing(self, bid: Bid) -> Bid:
        """An acceptable bid with the amount at which it is placed.

        A new leader bids an increment more than the limit of the bid that it outbids, as far as its own limit goes, but
        at least its own amount. A bid that does not exceed the leader's limit is placed at its own. A leader who
        raises only the limit bids no more than before.
        """
        leading, amount_minor = self.highest_bid, bid.amount_minor
        if leading is None:
            least = self.opening_minor
        elif leading.bidder_id == bid.bidder_id:
            least = leading.amount_minor
        else:
            least = min(bid.limit_minor, leading.limit_minor + self.increment_minor)
        return bid if amount_minor >= least else replace(bid, amount_minor=least)

    def answer_to(self, bid: Bid) -> Bid | None:
        """The leading bid, raised to stay ahead of an acceptable one; None: that one leads.

        Of two equal limits the earlier one leads. A bid of the same bidder costs the leader no more than it asks for.
        """
        leading = self.highest_bid
        if leading is None or bid.limit_minor > leading.limit_minor:
            return None
        own = leading.bidder_id == bid.bidder_id
        least = self.standing(bid).amount_minor if own else bid.limit_minor + self.increment_minor
        return replace(leading, amount_minor=min(leading.limit_minor, least))

    def end_after(self, bid: Bid, now_ms: int) -> int:
        """The end after a bid as it is placed: later if it comes near the end, and raises the price by an increment.

        By raising only the limit, a leader would keep the auction open for ever and pay no more for it.
        """
        leading = self.highest_bid
        rises = leading is None or bid.amount_minor >= leading.amount_minor + self.increment_minor
        return max(self.end_time_ms, now_ms + self.extension_ms) if rises and self.extension_ms else self.end_time_ms

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
            # A raise is no further bid of its bidder.
            accepted = state.bids_accepted + (not isinstance(event, events.BidRaised))
            return replace(state, highest_bid=_bid_of(event), bids_accepted=accepted, end_time_ms=event.end_time_ms)
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


def _bid_of(event: events.BidPlaced) -> Bid:
    return Bid(
        bid_id=event.bid_id,
        bidder_id=event.bidder_id,
        bidder_cell=event.bidder_cell,
        amount_minor=event.amount_minor,
        maximum_minor=event.maximum_minor,
    )
