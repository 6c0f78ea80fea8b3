"""All commands of a cell, imperative. Amounts are checked: positive, 64 bits, known currency."""

from uuid import UUID

from cells.domain.audit.events import Access, CorrectedBalance, Mismatch
from cells.domain.decision import Replacement
from cells.domain.moves.commands import BeginMove, MoveAction
from cells.domain.record import Struct
from cells.domain.sagas.leg import LegMark
from cells.domain.values import Direction, LegId, Money


class OpenAccount(Struct, frozen=True, kw_only=True):
    user_id: UUID
    home_epoch: int


class Deposit(Struct, frozen=True, kw_only=True):
    user_id: UUID
    amount: Money
    external_reference: str


class Withdraw(Struct, frozen=True, kw_only=True):
    user_id: UUID
    amount: Money
    external_reference: str


class Transfer(Struct, frozen=True, kw_only=True):
    from_user_id: UUID
    to_user_id: UUID
    amount: Money
    # Another cell, which is the payee's home.
    to_cell: str | None = None


class Reserve(Struct, frozen=True, kw_only=True):
    user_id: UUID
    amount: Money
    expire_time_ms: int | None


class Capture(Struct, frozen=True, kw_only=True):
    user_id: UUID
    hold_id: UUID
    to_user_id: UUID
    # None: all of the hold.
    amount_minor: int | None


class Release(Struct, frozen=True, kw_only=True):
    user_id: UUID
    hold_id: UUID


class ExpireHold(Struct, frozen=True, kw_only=True):
    """Sent by the cell's own timer."""

    user_id: UUID
    hold_id: UUID


class RegisterAsset(Struct, frozen=True, kw_only=True):
    owner_id: UUID
    owner_cell: str
    description: str


class CreateAuction(Struct, frozen=True, kw_only=True):
    asset_id: UUID
    seller_id: UUID
    opening: Money
    increment_minor: int
    end_time_ms: int
    extension_ms: int
    # None: the cell's default.
    settlement_timeout_ms: int | None


class PlaceBid(Struct, frozen=True, kw_only=True):
    """`auction_cell` may differ from the bidder's home, where this command is decided."""

    auction_id: UUID
    auction_cell: str
    bidder_id: UUID
    amount: Money
    # The auction raises the bid up to it to answer others; None: the bid stays as it is.
    maximum: Money | None = None


class CloseAuction(Struct, frozen=True, kw_only=True):
    auction_id: UUID
    # False: sent by the cell's own timer, and only valid if the end has come.
    by_command: bool


class CancelAuction(Struct, frozen=True, kw_only=True):
    auction_id: UUID


# --- the legs of sagas ------------------------------------------------------------------------------------------------


class BidAction(Struct, frozen=True, kw_only=True):
    """On the hold behind a bid, in the bidder's home."""

    user_id: UUID
    auction_id: UUID
    bid_id: UUID
    amount: Money


class PinHold(BidAction, frozen=True, kw_only=True):
    pass


class SendToEscrow(BidAction, frozen=True, kw_only=True):
    to_cell: str
    clearing_id: UUID


class ReceiveEscrow(Struct, frozen=True, kw_only=True):
    auction_id: UUID
    amount: Money
    from_cell: str
    clearing_id: UUID


class PayOutEscrow(Struct, frozen=True, kw_only=True):
    auction_id: UUID
    amount: Money
    to_cell: str
    clearing_id: UUID


class CreditPending(Struct, frozen=True, kw_only=True):
    user_id: UUID
    auction_id: UUID
    amount: Money
    from_cell: str
    clearing_id: UUID


class TransferOwnership(Struct, frozen=True, kw_only=True):
    asset_id: UUID
    auction_id: UUID
    from_user_id: UUID
    to_user_id: UUID
    to_cell: str


class SettlePending(Struct, frozen=True, kw_only=True):
    user_id: UUID
    auction_id: UUID
    amount: Money
    fee_minor: int


class NotifyParty(Struct, frozen=True, kw_only=True):
    user_id: UUID
    # A resource name: cells/{cell}/auctions/{uuid}.
    auction: str
    amount: Money
    # AUCTION_WON, ASSET_SOLD, SETTLEMENT_FAILED_FOR_WINNER or SETTLEMENT_FAILED_FOR_SELLER.
    notice: str
    # The result of the mail, filled in by the cell that sends it: SENT or SKIPPED.
    status: str = "SKIPPED"


class ReserveForBid(BidAction, frozen=True, kw_only=True):
    auction_cell: str = ""


class SubmitBid(Struct, frozen=True, kw_only=True):
    auction_id: UUID
    bid_id: UUID
    bidder_id: UUID
    bidder_cell: str
    amount: Money
    valid_until_ms: int
    maximum: Money | None = None


class ReleaseBid(Struct, frozen=True, kw_only=True):
    user_id: UUID
    auction_id: UUID
    bid_id: UUID
    currency: str


class SendTransfer(Struct, frozen=True, kw_only=True):
    user_id: UUID
    to_user_id: UUID
    amount: Money
    to_cell: str
    clearing_id: UUID


class ReceiveTransfer(Struct, frozen=True, kw_only=True):
    user_id: UUID
    from_user_id: UUID
    amount: Money
    from_cell: str
    clearing_id: UUID
    valid_until_ms: int


LegAction = (
    PinHold
    | SendToEscrow
    | ReceiveEscrow
    | PayOutEscrow
    | CreditPending
    | TransferOwnership
    | SettlePending
    | NotifyParty
    | ReserveForBid
    | SubmitBid
    | ReleaseBid
    | SendTransfer
    | ReceiveTransfer
    | MoveAction
)


class ApplyLeg(Struct, frozen=True, kw_only=True):
    """Take a leg. If this cell orchestrates the saga, its progress is recorded in the same commit."""

    leg_id: LegId
    action: LegAction
    orchestrator: str
    # By the hybrid logical clock of the orchestrator; None: this cell, whose own legs do not travel.
    sent_ms: int | None = None


class CompensateLeg(Struct, frozen=True, kw_only=True):
    """Undo a leg, or make sure that it never happens."""

    leg_id: LegId
    action: LegAction
    orchestrator: str


# --- progress of the sagas that this cell orchestrates --------------------------------------------------------------


class RecordLeg(Struct, frozen=True, kw_only=True):
    """Another cell has answered: the leg is applied, undone or tombstoned."""

    leg_id: LegId
    # The direction that was requested: an action's answer that arrives while the saga is undone is outdated.
    direction: Direction
    mark: LegMark


class SkipLeg(Struct, frozen=True, kw_only=True):
    """A best-effort leg is given up."""

    leg_id: LegId
    failure_reason: str


class FailSaga(Struct, frozen=True, kw_only=True):
    """A leg was definitely refused, or the deadline has passed: compensate."""

    leg_id: LegId
    # The refusal's reason, or DEADLINE_EXCEEDED, which the batch checks against its own time when it decides.
    failure_reason: str
    failure_message: str
    failure_facts: dict[str, str]
    # False: the refused leg cannot be applied by a late duplicate either.
    covers_leg: bool


class MoveParty(Struct, frozen=True, kw_only=True):
    """The current leg's cell has answered that the user is at home elsewhere since that epoch."""

    leg_id: LegId
    # The direction that was requested, as in RecordLeg.
    direction: Direction
    user_id: UUID
    cell: str
    epoch: int


SagaProgress = RecordLeg | SkipLeg | FailSaga | MoveParty


# --- an operator's orders to a saga -----------------------------------------------------------------------------------


class PauseSaga(Struct, frozen=True, kw_only=True):
    """Begin no further leg until the saga is resumed."""

    saga_id: UUID
    # The reason, for the log.
    note: str


class ResumeSaga(Struct, frozen=True, kw_only=True):
    saga_id: UUID
    note: str


class CompensateSaga(Struct, frozen=True, kw_only=True):
    """Compensate the saga, if the pivot has not been done."""

    saga_id: UUID
    note: str


SagaOrder = PauseSaga | ResumeSaga | CompensateSaga


# --- results of an audit of this cell's tables ------------------------------------------------------------------------


class ReportMismatches(Struct, frozen=True, kw_only=True):
    full: bool
    from_log_position: int
    log_position: int
    findings_count: int
    # The first findings.
    findings: tuple[Mismatch, ...]


class RebuildProjections(Struct, frozen=True, kw_only=True):
    """For aggregates that no decision uses meanwhile: states are right as long as no event follows them."""

    states: tuple[Replacement, ...]
    house: tuple[CorrectedBalance, ...]
    note: str
    # Already repaired, by their owner.
    rows_count: int = 0


class RecordAccesses(Struct, frozen=True, kw_only=True):
    accesses: tuple[Access, ...]


AuditRecord = ReportMismatches | RebuildProjections | RecordAccesses

Command = (
    OpenAccount
    | Deposit
    | Withdraw
    | Transfer
    | Reserve
    | Capture
    | Release
    | ExpireHold
    | RegisterAsset
    | CreateAuction
    | PlaceBid
    | CloseAuction
    | CancelAuction
    | BeginMove
    | ApplyLeg
    | CompensateLeg
    | SagaProgress
    | SagaOrder
    | AuditRecord
)
