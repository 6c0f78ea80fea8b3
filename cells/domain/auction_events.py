"""What can happen to an asset and to the auction that sells it."""

from uuid import UUID

from cells.domain.event import Event, Movement
from cells.domain.record import dataclass
from cells.domain.values import Kind, clearing_account


class AssetEvent(Event):
    __slots__ = ()
    kind = Kind.ASSET


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetRegistered(AssetEvent):
    owner_id: UUID
    owner_cell: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetLockTaken(AssetEvent):
    auction_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetLockReleased(AssetEvent):
    auction_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnershipTransferred(AssetEvent):
    """The pivot of a settlement: the asset is the winner's, and unlocked."""

    auction_id: UUID
    from_user_id: UUID
    to_user_id: UUID
    to_cell: str


class AuctionEvent(Event):
    __slots__ = ()
    kind = Kind.AUCTION


@dataclass(frozen=True, slots=True, kw_only=True)
class AuctionCreated(AuctionEvent):
    asset_id: UUID
    seller_id: UUID
    seller_cell: str
    currency: str
    opening_minor: int
    increment_minor: int
    end_time_ms: int
    extension_ms: int
    settlement_timeout_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BidPlaced(AuctionEvent):
    bid_id: UUID
    bidder_id: UUID
    bidder_cell: str
    currency: str
    amount_minor: int
    # Later than before when the bid came within the extension time of the end.
    end_time_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AuctionClosed(AuctionEvent):
    """Bidding is over. With a winner the settlement starts in the same commit."""

    # TIME or COMMAND
    closed_by: str
    winning_bid_id: UUID | None
    winner_id: UUID | None
    winner_cell: str | None
    currency: str
    price_minor: int | None
    saga_id: UUID | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuctionCancelled(AuctionEvent):
    released_bid_id: UUID | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EscrowFunded(AuctionEvent):
    currency: str
    amount_minor: int
    from_cell: str
    clearing_id: UUID

    def movement(self) -> Movement:
        return Movement(currency=self.currency, house=((clearing_account(self.from_cell), -self.amount_minor),))


@dataclass(frozen=True, slots=True, kw_only=True)
class EscrowRefunded(AuctionEvent):
    """Undoes EscrowFunded."""

    currency: str
    amount_minor: int
    to_cell: str
    clearing_id: UUID

    def movement(self) -> Movement:
        return Movement(currency=self.currency, house=((clearing_account(self.to_cell), self.amount_minor),))


@dataclass(frozen=True, slots=True, kw_only=True)
class EscrowPaidOut(AuctionEvent):
    currency: str
    amount_minor: int
    to_cell: str
    clearing_id: UUID

    def movement(self) -> Movement:
        return Movement(currency=self.currency, house=((clearing_account(self.to_cell), self.amount_minor),))


@dataclass(frozen=True, slots=True, kw_only=True)
class EscrowRefilled(AuctionEvent):
    """Undoes EscrowPaidOut."""

    currency: str
    amount_minor: int
    from_cell: str
    clearing_id: UUID

    def movement(self) -> Movement:
        return Movement(currency=self.currency, house=((clearing_account(self.from_cell), -self.amount_minor),))


@dataclass(frozen=True, slots=True, kw_only=True)
class AuctionSettled(AuctionEvent):
    saga_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlementFailed(AuctionEvent):
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
