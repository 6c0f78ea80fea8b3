"""The events of a saga, and of a leg that was cancelled before it happened."""

from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import UUID

from cells.domain.event import Event
from cells.domain.record import Struct
from cells.domain.values import Kind, Money


class SagaEvent(Event, frozen=True, kw_only=True):
    kind = Kind.SAGA


class AuctionFacts(Struct, frozen=True, kw_only=True):
    """Of a saga about an auction, which lives in `auction_cell`."""

    auction_id: UUID
    auction_cell: str
    currency: str

    @property
    def auction(self) -> str:
        """The auction's resource name."""
        return f"cells/{self.auction_cell}/auctions/{self.auction_id}"


class SaleFacts(AuctionFacts, frozen=True, kw_only=True):
    amount_minor: int

    @property
    def amount(self) -> Money:
        return Money(self.currency, self.amount_minor)


class SettlementFacts(SaleFacts, frozen=True, kw_only=True):
    """Everything that the legs of a settlement need."""

    asset_id: UUID
    bid_id: UUID
    winner_id: UUID
    winner_cell: str
    seller_id: UUID
    seller_cell: str
    fee_minor: int


class RemoteBidFacts(SaleFacts, frozen=True, kw_only=True):
    """A bid by a user of this cell in another cell's auction."""

    bid_id: UUID
    bidder_id: UUID
    bidder_cell: str
    valid_until_ms: int
    # The client's command, answered when the saga ends.
    command_id: UUID
    maximum_minor: int | None = None
    ADDED: ClassVar[Mapping[str, Any]] = {"maximum_minor": None}

    @property
    def maximum(self) -> Money | None:
        return None if self.maximum_minor is None else Money(self.currency, self.maximum_minor)

    @property
    def limit(self) -> Money:
        """The amount that is held."""
        return self.maximum or self.amount


class ReleaseFacts(AuctionFacts, frozen=True, kw_only=True):
    """An outbid or losing bid of a user of another cell, whose hold there must be released."""

    bid_id: UUID
    bidder_id: UUID
    bidder_cell: str


class NoticeFacts(SaleFacts, frozen=True, kw_only=True):
    """A notice to a person, wherever they live. Nothing waits for it."""

    user_id: UUID
    user_cell: str
    notice: str


class TransferFacts(Struct, frozen=True, kw_only=True):
    """Money for a user of another cell."""

    from_user_id: UUID
    from_cell: str
    to_user_id: UUID
    to_cell: str
    currency: str
    amount_minor: int
    valid_until_ms: int
    # The client's command, answered when the saga ends.
    command_id: UUID

    @property
    def amount(self) -> Money:
        return Money(self.currency, self.amount_minor)


class MoveFacts(Struct, frozen=True, kw_only=True):
    """A user who moves from this cell to another."""

    user_id: UUID
    from_cell: str
    to_cell: str
    # The new home's epoch.
    epoch: int
    # The user's residency from then on; None: unchanged.
    region: str | None
    # The client's command, answered when the saga ends.
    command_id: UUID
    # The directory of homes, which is told the new home: not a cell, but called like one.
    directory: str = "router"


SagaFacts = SettlementFacts | RemoteBidFacts | ReleaseFacts | TransferFacts | NoticeFacts | MoveFacts


def begun_by(facts: SagaFacts) -> UUID | str | None:
    """The user whose command began the flow, or the cell whose bid it releases: their open flows are limited."""
    match facts:
        case RemoteBidFacts():
            return facts.bidder_id
        case TransferFacts():
            return facts.from_user_id
        case ReleaseFacts():
            return facts.bidder_cell
        case _:
            return None


class SagaStarted(SagaEvent, frozen=True, kw_only=True):
    """`facts` identify the saga. Without a deadline it is driven forward until it is done."""

    ADDED: ClassVar[Mapping[str, Any]] = {"saga_version": 1}
    facts: SagaFacts
    deadline_ms: int | None
    started_ms: int
    # The version of its definition, which it keeps to its end.
    saga_version: int = 1


class SagaLegCompleted(SagaEvent, frozen=True, kw_only=True):
    """`effect_id` is the event that is the leg's effect, in any cell.

    `valid_until_ms`: the saga's deadline from here on; None: unchanged.
    """

    ADDED: ClassVar[Mapping[str, Any]] = {"valid_until_ms": None}
    leg: str
    generation: int
    effect_id: UUID
    valid_until_ms: int | None = None


class SagaLegSkipped(SagaEvent, frozen=True, kw_only=True):
    """A best-effort leg was given up, or the leg had nothing to do: the release of a bid whose bidder is unknown."""

    leg: str
    generation: int
    failure_reason: str


class SagaCompensationStarted(SagaEvent, frozen=True, kw_only=True):
    """`leg` is the one that failed; `covers_leg` says whether that leg may have been applied or may yet be."""

    leg: str
    failure_reason: str
    failure_message: str
    failure_facts: dict[str, str]
    covers_leg: bool


class SagaLegCompensated(SagaEvent, frozen=True, kw_only=True):
    """`result` is UNDONE or TOMBSTONED."""

    leg: str
    generation: int
    result: str
    effect_id: UUID


class SagaPivotFoundDone(SagaEvent, frozen=True, kw_only=True):
    """Asked to cancel, the pivot's cell answered that the pivot was done: the saga goes forward from here."""

    leg: str
    generation: int
    effect_id: UUID


class SagaPaused(SagaEvent, frozen=True, kw_only=True):
    """By an operator; `note` is the reason. A leg under way is still recorded, and no other one is begun."""

    note: str


class SagaResumed(SagaEvent, frozen=True, kw_only=True):
    """By an operator."""

    note: str


class SagaPartyMoved(SagaEvent, frozen=True, kw_only=True):
    """A cell has answered that a person whom the saga concerns is at home elsewhere: their legs go there."""

    user_id: UUID
    cell: str
    epoch: int


class SagaCompleted(SagaEvent, frozen=True, kw_only=True):
    pass


class SagaCompensated(SagaEvent, frozen=True, kw_only=True):
    failure_reason: str


class LegTombstoned(Event, frozen=True, kw_only=True):
    """A compensation came before its action: the action is refused from here on."""

    kind = Kind.LEG
    saga_id: UUID
    leg: str
    generation: int


SagaEvents = (
    SagaStarted
    | SagaLegCompleted
    | SagaLegSkipped
    | SagaCompensationStarted
    | SagaLegCompensated
    | SagaPivotFoundDone
    | SagaPaused
    | SagaResumed
    | SagaPartyMoved
    | SagaCompleted
    | SagaCompensated
)
