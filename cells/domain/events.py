"""The events of accounts, assets, auctions and audits, in past tense, and all events of a cell as one closed union.

An event changes the state of exactly one aggregate, its stream's. Amounts are positive and the event's name gives the
direction; `movement` turns that into postings. A field that ends in `_minor` is stored as a decimal string
(docs/log-format.md). The events of moves and of sagas are in their packages.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, get_args
from uuid import UUID

from cells.domain.audit.events import AuditEvents
from cells.domain.event import Event, Movement
from cells.domain.moves.events import AccountMoveEvents, LegCarried
from cells.domain.sagas.saga_events import LegTombstoned, SagaEvents
from cells.domain.values import EXTERNAL, FEES, TRANSIT, Kind, clearing_account

# --- accounts: the stream's id is the user's id -----------------------------------------------------------------------


class AccountEvent(Event, frozen=True, kw_only=True):
    kind = Kind.ACCOUNT


class AccountOpened(AccountEvent, frozen=True, kw_only=True):
    home_epoch: int


class AmountEvent(AccountEvent, frozen=True, kw_only=True):
    """An amount comes into one bucket of the account from a house account, or goes out of it to that account."""

    # 1: it comes in; -1: it goes out.
    sign: ClassVar[int] = 1
    bucket: ClassVar[str] = "available"
    house: ClassVar[str] = ""
    currency: str
    amount_minor: int

    def counterpart(self) -> str:
        return self.house

    def movement(self) -> Movement:
        change = self.sign * self.amount_minor
        return Movement(currency=self.currency, house=((self.counterpart(), -change),), **{self.bucket: change})


class AmountFromCell(AmountEvent, frozen=True, kw_only=True):
    from_cell: str
    clearing_id: UUID

    def counterpart(self) -> str:
        return clearing_account(self.from_cell)


class AmountToCell(AmountEvent, frozen=True, kw_only=True):
    sign = -1
    to_cell: str
    clearing_id: UUID

    def counterpart(self) -> str:
        return clearing_account(self.to_cell)


class Deposited(AmountEvent, frozen=True, kw_only=True):
    house = EXTERNAL
    external_reference: str


class Withdrawn(AmountEvent, frozen=True, kw_only=True):
    sign, house = -1, EXTERNAL
    external_reference: str


class TransferSent(AmountEvent, frozen=True, kw_only=True):
    sign, house = -1, TRANSIT
    transfer_id: UUID
    to_user_id: UUID


class TransferReceived(AmountEvent, frozen=True, kw_only=True):
    house = TRANSIT
    transfer_id: UUID
    from_user_id: UUID


class RemoteTransferSent(AmountToCell, frozen=True, kw_only=True):
    """To a user of another cell. `transfer_id` is the saga's."""

    transfer_id: UUID
    to_user_id: UUID


class RemoteTransferReceived(AmountFromCell, frozen=True, kw_only=True):
    transfer_id: UUID
    from_user_id: UUID


class RemoteTransferReturned(AmountFromCell, frozen=True, kw_only=True):
    """Undoes RemoteTransferSent: the transfer never arrived, and never will."""

    transfer_id: UUID


class FundsReserved(AccountEvent, frozen=True, kw_only=True):
    """`amount_minor` is the growth of the hold; a bid's hold is the maximum over its open bids, so it may be 0."""

    hold_id: UUID
    currency: str
    amount_minor: int
    bid_id: UUID | None = None
    bid_minor: int | None = None
    # A bid of the same bidder, which this one outbids in the same commit.
    replaces_bid_id: UUID | None = None
    expire_time_ms: int | None = None
    # The cell of the auction.
    auction_cell: str = ""
    ADDED: ClassVar[Mapping[str, Any]] = {"auction_cell": ""}

    def movement(self) -> Movement:
        return Movement(currency=self.currency, available=-self.amount_minor, reserved=self.amount_minor)


class FundsReleased(AccountEvent, frozen=True, kw_only=True):
    """`amount_minor` is the reduction of the hold: 0 if other open bids still need all of it."""

    hold_id: UUID
    currency: str
    amount_minor: int
    bid_id: UUID | None = None

    def movement(self) -> Movement:
        return Movement(currency=self.currency, available=self.amount_minor, reserved=-self.amount_minor)


class HoldPaidOut(AccountEvent, frozen=True, kw_only=True):
    """A hold ends: an amount of it is paid, and the rest is free."""

    hold_id: UUID
    currency: str
    amount_minor: int
    released_minor: int

    def counterpart(self) -> str:
        return TRANSIT

    def movement(self) -> Movement:
        return Movement(
            currency=self.currency,
            available=self.released_minor,
            reserved=-(self.amount_minor + self.released_minor),
            house=((self.counterpart(), self.amount_minor),),
        )


class HoldCaptured(HoldPaidOut, frozen=True, kw_only=True):
    to_user_id: UUID


class HoldPinned(AccountEvent, frozen=True, kw_only=True):
    """The winning bid's hold belongs to its settlement from here on."""

    hold_id: UUID
    bid_id: UUID
    saga_id: UUID


class EscrowSent(HoldPaidOut, frozen=True, kw_only=True):
    """`released_minor` returns to the owner, because the hold was larger than the winning bid."""

    bid_id: UUID
    to_cell: str
    clearing_id: UUID

    def counterpart(self) -> str:
        return clearing_account(self.to_cell)


class EscrowReturned(AmountFromCell, frozen=True, kw_only=True):
    """Undoes EscrowSent: the reservation is restored, still pinned."""

    bucket = "reserved"
    hold_id: UUID
    bid_id: UUID
    saga_id: UUID


class PendingCredited(AmountFromCell, frozen=True, kw_only=True):
    bucket = "pending"
    auction_id: UUID


class PendingReversed(AmountToCell, frozen=True, kw_only=True):
    """Undoes PendingCredited."""

    bucket = "pending"
    auction_id: UUID


class PendingSettled(AccountEvent, frozen=True, kw_only=True):
    auction_id: UUID
    currency: str
    amount_minor: int
    fee_minor: int

    def movement(self) -> Movement:
        net = self.amount_minor - self.fee_minor
        return Movement(
            currency=self.currency, pending=-self.amount_minor, available=net, house=((FEES, self.fee_minor),)
        )


class PartyNotified(AccountEvent, frozen=True, kw_only=True):
    """`status` is QUEUED, or SKIPPED if no mail server is configured; in old events also SENT."""

    auction: str
    notice: str
    status: str


# Those that change the account's holds.
HoldEvents = FundsReserved | FundsReleased | HoldCaptured | HoldPinned | EscrowSent | EscrowReturned
AccountEvents = (
    AccountOpened
    | Deposited
    | Withdrawn
    | TransferSent
    | TransferReceived
    | RemoteTransferSent
    | RemoteTransferReceived
    | RemoteTransferReturned
    | PendingCredited
    | PendingReversed
    | PendingSettled
    | PartyNotified
    | HoldEvents
    | AccountMoveEvents
)


# --- assets -----------------------------------------------------------------------------------------------------------


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


AssetEvents = AssetRegistered | AssetLockTaken | AssetLockReleased | OwnershipTransferred


# --- auctions ---------------------------------------------------------------------------------------------------------


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
    # The auction raises the bid up to it to answer others; None: the bid stays as it is.
    maximum_minor: int | None = None
    ADDED: ClassVar[Mapping[str, Any]] = {"maximum_minor": None}


class BidRaised(BidPlaced, frozen=True, kw_only=True):
    """The auction has raised the leading bid, within its maximum, to answer the bid before: it leads again."""


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


class EscrowIn(AuctionEvent, frozen=True, kw_only=True):
    """An amount comes into the auction's escrow from another cell."""

    currency: str
    amount_minor: int
    from_cell: str
    clearing_id: UUID

    def movement(self) -> Movement:
        return Movement(currency=self.currency, house=((clearing_account(self.from_cell), -self.amount_minor),))


class EscrowOut(AuctionEvent, frozen=True, kw_only=True):
    """An amount goes out of the auction's escrow to another cell."""

    currency: str
    amount_minor: int
    to_cell: str
    clearing_id: UUID

    def movement(self) -> Movement:
        return Movement(currency=self.currency, house=((clearing_account(self.to_cell), self.amount_minor),))


class EscrowFunded(EscrowIn, frozen=True, kw_only=True):
    pass


class EscrowRefunded(EscrowOut, frozen=True, kw_only=True):
    """Undoes EscrowFunded."""


class EscrowPaidOut(EscrowOut, frozen=True, kw_only=True):
    pass


class EscrowRefilled(EscrowIn, frozen=True, kw_only=True):
    """Undoes EscrowPaidOut."""


class AuctionSettled(AuctionEvent, frozen=True, kw_only=True):
    saga_id: UUID


class SettlementFailed(AuctionEvent, frozen=True, kw_only=True):
    saga_id: UUID
    failure_reason: str


AuctionEvents = (
    AuctionCreated
    | BidPlaced
    | BidRaised
    | AuctionClosed
    | AuctionCancelled
    | EscrowFunded
    | EscrowRefunded
    | EscrowPaidOut
    | EscrowRefilled
    | AuctionSettled
    | SettlementFailed
)

AnyEvent = AccountEvents | AssetEvents | AuctionEvents | SagaEvents | LegTombstoned | LegCarried | AuditEvents

# event_type -> class, for the codec: exactly the closed union.
EVENT_TYPES: dict[str, type[AnyEvent]] = {event.event_type: event for event in get_args(AnyEvent)}
