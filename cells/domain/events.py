"""Everything that can happen in a cell, past tense, as one closed union.

An event changes the state of exactly one aggregate, its stream's. Amounts are positive and the event's name says which
way they went; `movement` puts that into postings. A field that ends in `_minor` is stored as a decimal string
(docs/log-format.md).
"""

from typing import get_args

from cells.domain.account_events import (
    AccountEvents,
    AccountOpened,
    Deposited,
    EscrowReturned,
    EscrowSent,
    FundsReleased,
    FundsReserved,
    HoldCaptured,
    HoldPinned,
    PartyNotified,
    PendingCredited,
    PendingReversed,
    PendingSettled,
    TransferReceived,
    TransferSent,
    Withdrawn,
)
from cells.domain.auction_events import (
    AssetEvents,
    AssetLockReleased,
    AssetLockTaken,
    AssetRegistered,
    AuctionCancelled,
    AuctionClosed,
    AuctionCreated,
    AuctionEvents,
    AuctionSettled,
    BidPlaced,
    EscrowFunded,
    EscrowPaidOut,
    EscrowRefilled,
    EscrowRefunded,
    OwnershipTransferred,
    SettlementFailed,
)
from cells.domain.event import Event, Movement, postings
from cells.domain.saga_events import (
    LegTombstoned,
    ReleaseFacts,
    RemoteBidFacts,
    SagaCompensated,
    SagaCompensationStarted,
    SagaCompleted,
    SagaEvents,
    SagaFacts,
    SagaLegCompensated,
    SagaLegCompleted,
    SagaLegSkipped,
    SagaPivotFoundDone,
    SagaStarted,
    SettlementFacts,
)

AnyEvent = AccountEvents | AssetEvents | AuctionEvents | SagaEvents | LegTombstoned

# event_type -> class, for the codec: the closed union and nothing else.
EVENT_TYPES: dict[str, type[AnyEvent]] = {event.event_type: event for event in get_args(AnyEvent)}

__all__ = [
    "EVENT_TYPES",
    "AccountEvents",
    "AccountOpened",
    "AnyEvent",
    "AssetEvents",
    "AssetLockReleased",
    "AssetLockTaken",
    "AssetRegistered",
    "AuctionCancelled",
    "AuctionClosed",
    "AuctionCreated",
    "AuctionEvents",
    "AuctionSettled",
    "BidPlaced",
    "Deposited",
    "EscrowFunded",
    "EscrowPaidOut",
    "EscrowRefilled",
    "EscrowRefunded",
    "EscrowReturned",
    "EscrowSent",
    "Event",
    "FundsReleased",
    "FundsReserved",
    "HoldCaptured",
    "HoldPinned",
    "LegTombstoned",
    "Movement",
    "OwnershipTransferred",
    "PartyNotified",
    "PendingCredited",
    "PendingReversed",
    "PendingSettled",
    "ReleaseFacts",
    "RemoteBidFacts",
    "SagaCompensated",
    "SagaCompensationStarted",
    "SagaCompleted",
    "SagaEvents",
    "SagaFacts",
    "SagaLegCompensated",
    "SagaLegCompleted",
    "SagaLegSkipped",
    "SagaPivotFoundDone",
    "SagaStarted",
    "SettlementFacts",
    "SettlementFailed",
    "TransferReceived",
    "TransferSent",
    "Withdrawn",
    "postings",
]
