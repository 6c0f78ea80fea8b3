"""Everything that a cell can be asked to do, imperative. Amounts are checked: positive, 64 bits, known currency."""

from uuid import UUID

from cells.domain.decision import Replacement
from cells.domain.events import CorrectedBalance, Mismatch
from cells.domain.move_commands import BeginMove, MoveAction
from cells.domain.record import dataclass
from cells.domain.values import Direction, LegId, Money


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAccount:
    user_id: UUID
    home_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Deposit:
    user_id: UUID
    amount: Money
    external_reference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdraw:
    user_id: UUID
    amount: Money
    external_reference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    from_user_id: UUID
    to_user_id: UUID
    amount: Money
    # Another cell than this one, where the payee is at home.
    to_cell: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    user_id: UUID
    amount: Money
    expire_time_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    user_id: UUID
    hold_id: UUID
    to_user_id: UUID
    # None: all of the hold.
    amount_minor: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    user_id: UUID
    hold_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpireHold:
    """Asked by the cell's own timer."""

    user_id: UUID
    hold_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterAsset:
    owner_id: UUID
    owner_cell: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateAuction:
    asset_id: UUID
    seller_id: UUID
    opening: Money
    increment_minor: int
    end_time_ms: int
    extension_ms: int
    # None: the cell's default.
    settlement_timeout_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceBid:
    """`auction_cell` may be another one than the bidder's home, where this command is decided."""

    auction_id: UUID
    auction_cell: str
    bidder_id: UUID
    amount: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseAuction:
    auction_id: UUID
    # False: by the cell's own timer, and only if the end has come.
    by_command: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelAuction:
    auction_id: UUID


# --- the legs of sagas: what a cell is asked to do for one ----------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PinHold:
    user_id: UUID
    auction_id: UUID
    bid_id: UUID
    amount: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class SendToEscrow:
    user_id: UUID
    auction_id: UUID
    bid_id: UUID
    amount: Money
    to_cell: str
    clearing_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveEscrow:
    auction_id: UUID
    amount: Money
    from_cell: str
    clearing_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class PayOutEscrow:
    auction_id: UUID
    amount: Money
    to_cell: str
    clearing_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditPending:
    user_id: UUID
    auction_id: UUID
    amount: Money
    from_cell: str
    clearing_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferOwnership:
    asset_id: UUID
    auction_id: UUID
    from_user_id: UUID
    to_user_id: UUID
    to_cell: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlePending:
    user_id: UUID
    auction_id: UUID
    amount: Money
    fee_minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyParty:
    user_id: UUID
    # A resource name: cells/{cell}/auctions/{uuid}.
    auction: str
    amount: Money
    # What there is to tell: AUCTION_WON, ASSET_SOLD, SETTLEMENT_FAILED_FOR_WINNER or SETTLEMENT_FAILED_FOR_SELLER.
    notice: str
    # What the mail server made of it, filled in by the cell that asked it: SENT or SKIPPED.
    status: str = "SKIPPED"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReserveForBid:
    user_id: UUID
    auction_id: UUID
    bid_id: UUID
    amount: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitBid:
    auction_id: UUID
    bid_id: UUID
    bidder_id: UUID
    bidder_cell: str
    amount: Money
    valid_until_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseBid:
    user_id: UUID
    auction_id: UUID
    bid_id: UUID
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SendTransfer:
    user_id: UUID
    to_user_id: UUID
    amount: Money
    to_cell: str
    clearing_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveTransfer:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyLeg:
    """Take a leg. Where this cell orchestrates the saga, its progress is recorded in the same commit."""

    leg_id: LegId
    action: LegAction
    orchestrator: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CompensateLeg:
    """Undo a leg, or see to it that it never happens."""

    leg_id: LegId
    action: LegAction
    orchestrator: str


# --- progress of the sagas that this cell orchestrates --------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordLeg:
    """Another cell has answered: the leg is applied, undone or tombstoned."""

    leg_id: LegId
    # What was asked of the leg: an action's answer that comes while the saga is undone is old news.
    direction: Direction
    result: str
    effect_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class SkipLeg:
    """A best-effort leg is given up."""

    leg_id: LegId
    failure_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FailSaga:
    """A leg was definitely refused, or the deadline has passed: turn back."""

    leg_id: LegId
    # The refusal's reason, or DEADLINE_EXCEEDED, which the deciding batch checks against its own time.
    failure_reason: str
    failure_message: str
    failure_facts: dict[str, str]
    # False: the refused leg cannot be applied by a late duplicate either.
    covers_leg: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveParty:
    """The current leg's cell has said that the user is at home elsewhere since that epoch."""

    leg_id: LegId
    # What was asked of the leg, as in RecordLeg.
    direction: Direction
    user_id: UUID
    cell: str
    epoch: int


SagaProgress = RecordLeg | SkipLeg | FailSaga | MoveParty


# --- what an operator may tell a saga -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseSaga:
    """Begin no further leg until the saga is resumed."""

    saga_id: UUID
    # For the log: why.
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeSaga:
    saga_id: UUID
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CompensateSaga:
    """Turn back, if the pivot has not been done."""

    saga_id: UUID
    note: str


SagaOrder = PauseSaga | ResumeSaga | CompensateSaga


# --- what an audit of this cell's tables has to say -----------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportMismatches:
    full: bool
    from_log_position: int
    log_position: int
    findings_count: int
    # The first of them.
    findings: tuple[Mismatch, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildProjections:
    """Of aggregates that nothing is decided by meanwhile: states are right as long as no event follows them."""

    states: tuple[Replacement, ...]
    house: tuple[CorrectedBalance, ...]
    note: str
    # Put right already, by their owner.
    rows_count: int = 0


AuditRecord = ReportMismatches | RebuildProjections

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
