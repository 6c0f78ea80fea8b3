"""Everything that can happen in a cell, past tense. An event changes the state of exactly one aggregate, its stream's.

Amounts are positive and the event's name says which way they went; `movement` puts that into postings. A field that
ends in `_minor` is stored as a decimal string (docs/log-format.md).
"""

import re
from dataclasses import dataclass
from typing import ClassVar, get_args
from uuid import UUID

from cells.domain.values import (
    EXTERNAL,
    FEES,
    TRANSIT,
    Kind,
    Posting,
    clearing_account,
    escrow_account,
)

_WORD = re.compile(r"(?<!^)(?=[A-Z])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """How an event moves money: the change of each bucket of the stream's account, and of house accounts."""

    currency: str
    available: int = 0
    reserved: int = 0
    pending: int = 0
    house: tuple[tuple[str, int], ...] = ()

    def postings(self, account_id: UUID) -> tuple[Posting, ...]:
        """The double entry: one posting per account that changes, buckets of users/{account_id} first."""
        buckets = (("available", self.available), ("reserved", self.reserved), ("pending", self.pending))
        own = [(f"users/{account_id}/{bucket}", change) for bucket, change in buckets]
        return tuple(Posting(account, self.currency, change) for account, change in (*own, *self.house) if change)


class Event:
    """The base of the closed union. `event_type` is the class name in upper snake case."""

    __slots__ = ()
    kind: ClassVar[Kind]
    event_type: ClassVar[str]
    version: ClassVar[int] = 1

    def __init_subclass__(cls) -> None:
        cls.event_type = _WORD.sub("_", cls.__name__).upper()

    def movement(self) -> Movement | None:
        """What the event does to money; None when it moves none."""
        return None


# --- accounts: the stream's id is the user's id ---------------------------------------------------------------------


class AccountEvent(Event):
    __slots__ = ()
    kind = Kind.ACCOUNT


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountOpened(AccountEvent):
    home_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Deposited(AccountEvent):
    currency: str
    amount_minor: int
    external_reference: str

    def movement(self) -> Movement:
        amount = self.amount_minor
        return Movement(currency=self.currency, available=amount, house=((EXTERNAL, -amount),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn(AccountEvent):
    currency: str
    amount_minor: int
    external_reference: str

    def movement(self) -> Movement:
        amount = self.amount_minor
        return Movement(currency=self.currency, available=-amount, house=((EXTERNAL, amount),))


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferSent(AccountEvent):
    transfer_id: UUID
    to_user_id: UUID
    currency: str
    amount_minor: int

    def movement(self) -> Movement:
        amount = self.amount_minor
        return Movement(currency=self.currency, available=-amount, house=((TRANSIT, amount),))


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferReceived(AccountEvent):
    transfer_id: UUID
    from_user_id: UUID
    currency: str
    amount_minor: int

    def movement(self) -> Movement:
        amount = self.amount_minor
        return Movement(currency=self.currency, available=amount, house=((TRANSIT, -amount),))


@dataclass(frozen=True, slots=True, kw_only=True)
class FundsReserved(AccountEvent):
    """`amount_minor` is what the hold grew by; a bid's hold is the maximum over its open bids, so it may be 0."""

    hold_id: UUID
    currency: str
    amount_minor: int
    bid_id: UUID | None = None
    bid_minor: int | None = None
    # A bid of the same bidder that this one outbids in the same commit.
    replaces_bid_id: UUID | None = None
    expire_time_ms: int | None = None

    def movement(self) -> Movement:
        return Movement(currency=self.currency, available=-self.amount_minor, reserved=self.amount_minor)


@dataclass(frozen=True, slots=True, kw_only=True)
class FundsReleased(AccountEvent):
    """`amount_minor` is what the hold shrank by: 0 when other open bids still need all of it."""

    hold_id: UUID
    currency: str
    amount_minor: int
    bid_id: UUID | None = None

    def movement(self) -> Movement:
        return Movement(currency=self.currency, available=self.amount_minor, reserved=-self.amount_minor)


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldCaptured(AccountEvent):
    hold_id: UUID
    to_user_id: UUID
    currency: str
    amount_minor: int
    released_minor: int

    def movement(self) -> Movement:
        return Movement(
            currency=self.currency,
            available=self.released_minor,
            reserved=-(self.amount_minor + self.released_minor),
            house=((TRANSIT, self.amount_minor),),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldPinned(AccountEvent):
    """The winning bid's hold belongs to its settlement from here on."""

    hold_id: UUID
    bid_id: UUID
    saga_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class EscrowSent(AccountEvent):
    hold_id: UUID
    bid_id: UUID
    currency: str
    amount_minor: int
    # Given back to the owner because the hold was larger than the winning bid.
    released_minor: int
    to_cell: str
    clearing_id: UUID

    def movement(self) -> Movement:
        return Movement(
            currency=self.currency,
            available=self.released_minor,
            reserved=-(self.amount_minor + self.released_minor),
            house=((clearing_account(self.to_cell), self.amount_minor),),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EscrowReturned(AccountEvent):
    """Undoes EscrowSent: the reservation is restored, still pinned."""

    hold_id: UUID
    bid_id: UUID
    saga_id: UUID
    currency: str
    amount_minor: int
    from_cell: str
    clearing_id: UUID

    def movement(self) -> Movement:
        amount = self.amount_minor
        return Movement(
            currency=self.currency, reserved=amount, house=((clearing_account(self.from_cell), -amount),)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingCredited(AccountEvent):
    auction_id: UUID
    currency: str
    amount_minor: int
    from_cell: str
    clearing_id: UUID

    def movement(self) -> Movement:
        amount = self.amount_minor
        return Movement(
            currency=self.currency, pending=amount, house=((clearing_account(self.from_cell), -amount),)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingReversed(AccountEvent):
    """Undoes PendingCredited."""

    auction_id: UUID
    currency: str
    amount_minor: int
    to_cell: str
    clearing_id: UUID

    def movement(self) -> Movement:
        amount = self.amount_minor
        return Movement(
            currency=self.currency, pending=-amount, house=((clearing_account(self.to_cell), amount),)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingSettled(AccountEvent):
    auction_id: UUID
    currency: str
    amount_minor: int
    fee_minor: int

    def movement(self) -> Movement:
        net = self.amount_minor - self.fee_minor
        return Movement(
            currency=self.currency, pending=-self.amount_minor, available=net, house=((FEES, self.fee_minor),)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PartyNotified(AccountEvent):
    """`status` is SENT, or SKIPPED when no mail server or no address is configured."""

    auction: str
    notice: str
    status: str


# --- assets ---------------------------------------------------------------------------------------------------------


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


# --- auctions -------------------------------------------------------------------------------------------------------


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


# --- sagas ----------------------------------------------------------------------------------------------------------


class SagaEvent(Event):
    __slots__ = ()
    kind = Kind.SAGA


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlementFacts:
    """All that the legs of a settlement need to know."""

    auction_id: UUID
    asset_id: UUID
    bid_id: UUID
    winner_id: UUID
    winner_cell: str
    seller_id: UUID
    seller_cell: str
    auction_cell: str
    currency: str
    amount_minor: int
    fee_minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteBidFacts:
    """A bid by a user of this cell in another cell's auction."""

    auction_id: UUID
    auction_cell: str
    bid_id: UUID
    bidder_id: UUID
    bidder_cell: str
    currency: str
    amount_minor: int
    valid_until_ms: int
    # The client's command, answered when the saga ends.
    command_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseFacts:
    """An outbid or losing bid of a user of another cell, whose hold there is to be freed."""

    auction_id: UUID
    auction_cell: str
    bid_id: UUID
    bidder_id: UUID
    bidder_cell: str
    currency: str


SagaFacts = SettlementFacts | RemoteBidFacts | ReleaseFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaStarted(SagaEvent):
    """`facts` say which saga it is. Without a deadline it is driven forward until it is done."""

    facts: SagaFacts
    deadline_ms: int | None
    started_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaLegCompleted(SagaEvent):
    """`effect_id` is the event that is the leg's effect, in whichever cell."""

    leg: str
    generation: int
    effect_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaLegSkipped(SagaEvent):
    """A best-effort leg was given up."""

    leg: str
    generation: int
    failure_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaCompensationStarted(SagaEvent):
    """`leg` is where it went wrong; `covers_leg` says whether that leg may have been applied or may yet be."""

    leg: str
    failure_reason: str
    failure_message: str
    failure_facts: dict[str, str]
    covers_leg: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaLegCompensated(SagaEvent):
    """`result` is UNDONE or TOMBSTONED."""

    leg: str
    generation: int
    result: str
    effect_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaPivotFoundDone(SagaEvent):
    """Asked to cancel, the pivot's cell answered that it was done: forward from here."""

    leg: str
    generation: int
    effect_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaCompleted(SagaEvent):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaCompensated(SagaEvent):
    failure_reason: str


# --- legs: the barrier ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LegTombstoned(Event):
    """A compensation came before its action: the action is refused from here on."""

    kind = Kind.LEG
    saga_id: UUID
    leg: str
    generation: int


def postings(event: Event, aggregate_id: UUID) -> tuple[Posting, ...]:
    """The double entry of an event in the stream `aggregate_id`; empty when it moves no money."""
    movement = event.movement()
    if movement is None:
        return ()
    if event.kind is not Kind.AUCTION:
        return movement.postings(aggregate_id)
    cleared = sum(change for _, change in movement.house)
    escrow = Posting(escrow_account(aggregate_id), movement.currency, -cleared)
    return (escrow, *(Posting(account, movement.currency, change) for account, change in movement.house))


AccountEvents = (
    AccountOpened
    | Deposited
    | Withdrawn
    | TransferSent
    | TransferReceived
    | FundsReserved
    | FundsReleased
    | HoldCaptured
    | HoldPinned
    | EscrowSent
    | EscrowReturned
    | PendingCredited
    | PendingReversed
    | PendingSettled
    | PartyNotified
)
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
SagaEvents = (
    SagaStarted
    | SagaLegCompleted
    | SagaLegSkipped
    | SagaCompensationStarted
    | SagaLegCompensated
    | SagaPivotFoundDone
    | SagaCompleted
    | SagaCompensated
)
AnyEvent = AccountEvents | AssetEvents | AuctionEvents | SagaEvents | LegTombstoned

# event_type -> class, for the codec: the closed union and nothing else.
EVENT_TYPES: dict[str, type[AnyEvent]] = {event.event_type: event for event in get_args(AnyEvent)}
