"""What can happen to a saga, and to a leg that never was."""

from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import UUID

from cells.domain.event import Event
from cells.domain.record import Struct
from cells.domain.values import Kind


class SagaEvent(Event, frozen=True, kw_only=True):
    kind = Kind.SAGA


class SettlementFacts(Struct, frozen=True, kw_only=True):
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


class RemoteBidFacts(Struct, frozen=True, kw_only=True):
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


class ReleaseFacts(Struct, frozen=True, kw_only=True):
    """An outbid or losing bid of a user of another cell, whose hold there is to be freed."""

    auction_id: UUID
    auction_cell: str
    bid_id: UUID
    bidder_id: UUID
    bidder_cell: str
    currency: str


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


class NoticeFacts(Struct, frozen=True, kw_only=True):
    """What a person is to be told, wherever they live. Nobody waits for it."""

    auction_id: UUID
    auction_cell: str
    user_id: UUID
    user_cell: str
    notice: str
    currency: str
    amount_minor: int


class MoveFacts(Struct, frozen=True, kw_only=True):
    """A user who leaves this cell for another."""

    user_id: UUID
    from_cell: str
    to_cell: str
    # Of the new home.
    epoch: int
    # The residency that the user has from then on; None: as it was.
    region: str | None
    # Who asked for it is answered when the saga ends.
    command_id: UUID
    # The directory of homes, which is told: no cell, but asked like one.
    directory: str = "router"


SagaFacts = SettlementFacts | RemoteBidFacts | ReleaseFacts | TransferFacts | NoticeFacts | MoveFacts


def begun_by(facts: SagaFacts) -> UUID | None:
    """The user who began the flow by a command of their own; None where something else did."""
    match facts:
        case RemoteBidFacts():
            return facts.bidder_id
        case TransferFacts():
            return facts.from_user_id
        case _:
            return None


class SagaStarted(SagaEvent, frozen=True, kw_only=True):
    """`facts` say which saga it is. Without a deadline it is driven forward until it is done."""

    ADDED: ClassVar[Mapping[str, Any]] = {"saga_version": 1}
    facts: SagaFacts
    deadline_ms: int | None
    started_ms: int
    # Of the definition that it goes by to its end, whichever there are by then.
    saga_version: int = 1


class SagaLegCompleted(SagaEvent, frozen=True, kw_only=True):
    """`effect_id` is the event that is the leg's effect, in whichever cell.

    `valid_until_ms`: the saga's deadline from here on; None: as it was.
    """

    ADDED: ClassVar[Mapping[str, Any]] = {"valid_until_ms": None}
    leg: str
    generation: int
    effect_id: UUID
    valid_until_ms: int | None = None


class SagaLegSkipped(SagaEvent, frozen=True, kw_only=True):
    """A best-effort leg was given up."""

    leg: str
    generation: int
    failure_reason: str


class SagaCompensationStarted(SagaEvent, frozen=True, kw_only=True):
    """`leg` is where it went wrong; `covers_leg` says whether that leg may have been applied or may yet be."""

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
    """Asked to cancel, the pivot's cell answered that it was done: forward from here."""

    leg: str
    generation: int
    effect_id: UUID


class SagaPaused(SagaEvent, frozen=True, kw_only=True):
    """By an operator, whose words `note` is. A leg that was on its way is still recorded, no other one is begun."""

    note: str


class SagaResumed(SagaEvent, frozen=True, kw_only=True):
    """By an operator."""

    note: str


class SagaPartyMoved(SagaEvent, frozen=True, kw_only=True):
    """A cell has said that a person whom the saga concerns is at home elsewhere: the legs for them go there."""

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
