"""The events of a user's account. The stream's id is the user's id."""

from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import UUID

from cells.domain.event import Event, Movement
from cells.domain.moves.events import AccountMoveEvents
from cells.domain.values import EXTERNAL, FEES, TRANSIT, Kind, clearing_account


class AccountEvent(Event, frozen=True, kw_only=True):
    kind = Kind.ACCOUNT


class AccountOpened(AccountEvent, frozen=True, kw_only=True):
    home_epoch: int


class Deposited(AccountEvent, frozen=True, kw_only=True):
    currency: str
    amount_minor: int
    external_reference: str

    def movement(self) -> Movement:
        amount = self.amount_minor
        return Movement(currency=self.currency, available=amount, house=((EXTERNAL, -amount),))


class Withdrawn(AccountEvent, frozen=True, kw_only=True):
    currency: str
    amount_minor: int
    external_reference: str

    def movement(self) -> Movement:
        amount = self.amount_minor
        return Movement(currency=self.currency, available=-amount, house=((EXTERNAL, amount),))


class TransferSent(AccountEvent, frozen=True, kw_only=True):
    transfer_id: UUID
    to_user_id: UUID
    currency: str
    amount_minor: int

    def movement(self) -> Movement:
        amount = self.amount_minor
        return Movement(currency=self.currency, available=-amount, house=((TRANSIT, amount),))


class TransferReceived(AccountEvent, frozen=True, kw_only=True):
    transfer_id: UUID
    from_user_id: UUID
    currency: str
    amount_minor: int

    def movement(self) -> Movement:
        amount = self.amount_minor
        return Movement(currency=self.currency, available=amount, house=((TRANSIT, -amount),))


class RemoteTransferSent(AccountEvent, frozen=True, kw_only=True):
    """To a user of another cell. `transfer_id` is the saga's."""

    transfer_id: UUID
    to_user_id: UUID
    to_cell: str
    currency: str
    amount_minor: int
    clearing_id: UUID

    def movement(self) -> Movement:
        amount = self.amount_minor
        return Movement(currency=self.currency, available=-amount, house=((clearing_account(self.to_cell), amount),))


class RemoteTransferReceived(AccountEvent, frozen=True, kw_only=True):
    transfer_id: UUID
    from_user_id: UUID
    from_cell: str
    currency: str
    amount_minor: int
    clearing_id: UUID

    def movement(self) -> Movement:
        amount = self.amount_minor
        return Movement(currency=self.currency, available=amount, house=((clearing_account(self.from_cell), -amount),))


class RemoteTransferReturned(AccountEvent, frozen=True, kw_only=True):
    """Undoes RemoteTransferSent: the transfer never arrived, and never will."""

    transfer_id: UUID
    from_cell: str
    currency: str
    amount_minor: int
    clearing_id: UUID

    def movement(self) -> Movement:
        amount = self.amount_minor
        return Movement(currency=self.currency, available=amount, house=((clearing_account(self.from_cell), -amount),))


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


class HoldCaptured(AccountEvent, frozen=True, kw_only=True):
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


class HoldPinned(AccountEvent, frozen=True, kw_only=True):
    """The winning bid's hold belongs to its settlement from here on."""

    hold_id: UUID
    bid_id: UUID
    saga_id: UUID


class EscrowSent(AccountEvent, frozen=True, kw_only=True):
    hold_id: UUID
    bid_id: UUID
    currency: str
    amount_minor: int
    # Returned to the owner, because the hold was larger than the winning bid.
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


class EscrowReturned(AccountEvent, frozen=True, kw_only=True):
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
        return Movement(currency=self.currency, reserved=amount, house=((clearing_account(self.from_cell), -amount),))


class PendingCredited(AccountEvent, frozen=True, kw_only=True):
    auction_id: UUID
    currency: str
    amount_minor: int
    from_cell: str
    clearing_id: UUID

    def movement(self) -> Movement:
        amount = self.amount_minor
        return Movement(currency=self.currency, pending=amount, house=((clearing_account(self.from_cell), -amount),))


class PendingReversed(AccountEvent, frozen=True, kw_only=True):
    """Undoes PendingCredited."""

    auction_id: UUID
    currency: str
    amount_minor: int
    to_cell: str
    clearing_id: UUID

    def movement(self) -> Movement:
        amount = self.amount_minor
        return Movement(currency=self.currency, pending=-amount, house=((clearing_account(self.to_cell), amount),))


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


AccountEvents = (
    AccountOpened
    | Deposited
    | Withdrawn
    | TransferSent
    | TransferReceived
    | RemoteTransferSent
    | RemoteTransferReceived
    | RemoteTransferReturned
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
    | AccountMoveEvents
)
