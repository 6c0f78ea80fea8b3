"""The events of an asset, and of the auction that sells it."""

from uuid import UUID

from cells.domain.event import Event, Movement
from cells.domain.values import Kind, clearing_account


class AssetEvent(Event, frozen=True, kw_only=True):
    kind = Kind.ASSET


class AssetRegistered(AssetEvent, frozen=True, kw_only=True):
    owner_id: UUID
    owner_cell: str
    description: str


class AssetLockTaken(AssetEvent, frozen=True, kw_only=True):
    auction_id: UUID


class AssetLockReleased(AssetEvent, frozen=True, kw_only=True):
    auction_id: UUID


class OwnershipTransferred(AssetEvent, frozen=True, kw_only=True):
    """The pivot of a settlement: the asset belongs to the winner, and is unlocked."""

    auction_id: UUID
    from_user_id: UUID
    to_user_id: UUID
    to_cell: str


class AuctionEvent(Event, frozen=True, kw_only=True):
    kind = Kind.AUCTION


class AuctionCreated(AuctionEvent, frozen=True, kw_only=True):
    asset_id: UUID
    seller_id: UUID
    seller_cell: str
    currency: str
    opening_minor: int
    increment_minor: int
    end_time_ms: int
    extension_ms: int
    settlement_timeout_ms: int


class BidPlaced(AuctionEvent, frozen=True, kw_only=True):
    bid_id: UUID
    bidder_id: UUID
    bidder_cell: str
    currency: str
    amount_minor: int
    # Later than before if the bid came within the extension time of the end.
    end_time_ms: int


class AuctionClosed(AuctionEvent, frozen=True, kw_only=True):
    """Bidding is over. If there is a winner, the settlement starts in the same commit."""

    # TIME or COMMAND
    closed_by: str
    winning_bid_id: UUID | None
    winner_id: UUID | None
    winner_cell: str | None
    currency: str
    price_minor: int | None
    saga_id: UUID | None


class AuctionCancelled(AuctionEvent, frozen=True, kw_only=True):
    released_bid_id: UUID | None


class EscrowFunded(AuctionEvent, frozen=True, kw_only=True):
    currency: str
    amount_minor: int
    from_cell: str
    clearing_id: UUID

    def movement(self) -> Movement:
        return Movement(currency=self.currency, house=((clearing_account(self.from_cell), -self.amount_minor),))


class EscrowRefunded(AuctionEvent, frozen=True, kw_only=True):
    """Undoes EscrowFunded."""

    currency: str
    amount_minor: int
    to_cell: str
    clearing_id: UUID

    def movement(self) -> Movement:
        return Movement(currency=self.currency, house=((clearing_account(self.to_cell), self.amount_minor),))


class EscrowPaidOut(AuctionEvent, frozen=True, kw_only=True):
    currency: str
    amount_minor: int
    to_cell: str
    clearing_id: UUID

    def movement(self) -> Movement:
        return Movement(currency=self.currency, house=((clearing_account(self.to_cell), self.amount_minor),))


class EscrowRefilled(AuctionEvent, frozen=True, kw_only=True):
    """Undoes EscrowPaidOut."""

    currency: str
    amount_minor: int
    from_cell: str
    clearing_id: UUID

    def movement(self) -> Movement:
        return Movement(currency=self.currency, house=((clearing_account(self.from_cell), -self.amount_minor),))


class AuctionSettled(AuctionEvent, frozen=True, kw_only=True):
    saga_id: UUID


class SettlementFailed(AuctionEvent, frozen=True, kw_only=True):
    saga_id: UUID
    failure_reason: str


AssetEvents = AssetRegistered | AssetLockTaken | AssetLockReleased | OwnershipTransferred
AuctionEvents = (
    AuctionCreated
    | BidPlaced
    | AuctionClosed
    | AuctionCancelled
    | EscrowFunded
    | EscrowRefunded
    | EscrowPaidOut
    | EscrowRefilled
    | AuctionSettled
    | SettlementFailed
)
