"""Changes of one auction: gathered event by event, and taken as updates."""

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import assert_never, cast
from uuid import UUID

from cells.audit.checks.checked import UNREADABLE
from cells.domain import events
from cells.domain.auction.auction import Auction, AuctionState, Bid, evolve_auction
from cells.domain.audit.refusals import EventDamaged
from cells.domain.record import Struct, replace
from cells.domain.refusals import AuctionNotFound, Unavailable
from cells.encoding import codec
from cells.store.ports import EventRow

# The newest changes that an update holds; it only counts older ones.
CHANGES_MAX = 20
BID = events.BidPlaced.event_type
# After these states nothing happens any more.
LAST_STATES = frozenset(
    {AuctionState.SETTLED, AuctionState.UNSOLD, AuctionState.CANCELLED, AuctionState.SETTLEMENT_FAILED}
)


class ChangeKind(StrEnum):
    OPENED = "OPENED"
    BID = "BID"
    RAISED = "RAISED"
    CLOSED = "CLOSED"
    UNSOLD = "UNSOLD"
    CANCELLED = "CANCELLED"
    ESCROW = "ESCROW"
    SETTLED = "SETTLED"
    SETTLEMENT_FAILED = "SETTLEMENT_FAILED"


class Change(Struct, frozen=True, kw_only=True):
    """One event of the auction's stream."""

    position: int
    stream_version: int
    time_ms: int
    kind: ChangeKind
    bid: Bid | None = None
    # The bid of somebody else that `bid` has outbid.
    outbid: Bid | None = None
    # The auction's new end, if `bid` has moved it; else 0.
    extended_to_ms: int = 0


class Update(Struct, frozen=True, kw_only=True):
    """The auction at a version, and its changes after an earlier one."""

    auction_id: UUID
    auction: Auction
    after_version: int
    stream_version: int
    # Of the log: the update includes the auction's events up to here, and none after.
    position: int
    # The newest, oldest first.
    changes: tuple[Change, ...] = ()

    @property
    def left_out(self) -> int:
        """The number of changes before the first of `changes`."""
        return self.stream_version - self.after_version - len(self.changes)

    @property
    def ended(self) -> bool:
        return self.auction.state in LAST_STATES

    def since(self, version: int) -> "Update":
        """The part of the update after a version in its middle."""
        later = tuple(change for change in self.changes if change.stream_version > version)
        return replace(self, after_version=version, changes=later)


@dataclass(slots=True, kw_only=True)
class Gathering:
    """The events of an auction since the last update. They are read when the next one is made, and only the newest."""

    cell: str
    auction_id: UUID
    # After the last update; None before the auction's first event.
    auction: Auction | None
    # Of the last event, and its position: all events up to there are known.
    stream_version: int
    position: int
    changes_max: int = CHANGES_MAX
    # The same at the last update.
    after_version: int = field(init=False)
    after_position: int = field(init=False)
    _rows: deque[EventRow] = field(default_factory=deque)
    # Bids before these.
    _passed: int = 0

    def __post_init__(self) -> None:
        self.after_version, self.after_position = self.stream_version, self.position

    @property
    def ended(self) -> bool:
        return self.auction is not None and self.auction.state in LAST_STATES

    def add(self, row: EventRow) -> None:
        """The next event of the stream. Raises Unavailable if it is another one, and EventDamaged."""
        if row.stream_version != self.stream_version + 1:
            problem = f"version {row.stream_version} of auction {self.auction_id} came after {self.stream_version}"
            raise Unavailable(problem=problem)
        self._rows.append(row)
        self.stream_version, self.position = row.stream_version, row.position
        # One more is kept than is shown: a change is worked out from the state before.
        if len(self._rows) > self.changes_max + 1:
            self._pass(self._rows.popleft())

    def _pass(self, row: EventRow) -> None:
        """Of a bid that another one follows nothing remains but the count: reading each took a tenth of its cost."""
        if row.event_type == self._rows[0].event_type == BID:
            self._passed += 1
        else:
            _, self.auction = self._evolved(self._counted(), row)
            self._passed = 0

    def _counted(self) -> Auction | None:
        if self.auction is None or not self._passed:
            return self.auction
        return replace(self.auction, bids_accepted=self.auction.bids_accepted + self._passed)

    def _evolved(self, before: Auction | None, row: EventRow) -> tuple[Change, Auction]:
        try:
            event = cast("events.AuctionEvents", codec.event_of(row))
            after = evolve_auction(before, event)
        except UNREADABLE as error:
            problem = f"it cannot be read: {error!r}"
            raise EventDamaged(
                event_id=str(row.event_id), position=row.position, cell=self.cell, problem=problem
            ) from error
        return _change(row, event, before, after), after

    def _all(self) -> tuple[list[Change], Auction]:
        """The changes that are known, and the auction after them."""
        auction, changes = self._counted(), []
        for row in self._rows:
            change, auction = self._evolved(auction, row)
            changes.append(change)
        if auction is None:
            raise AuctionNotFound(auction_id=str(self.auction_id), cell=self.cell)
        return changes, auction

    def take(self) -> Update:
        """The changes since the last update. Raises EventDamaged."""
        changes, auction = self._all()
        update = Update(
            auction_id=self.auction_id,
            auction=auction,
            after_version=self.after_version,
            stream_version=self.stream_version,
            position=self.position,
            changes=tuple(changes[-self.changes_max :]),
        )
        self._rows.clear()
        self.auction, self._passed = auction, 0
        self.after_version, self.after_position = self.stream_version, self.position
        return update

    def present(self) -> "Gathering":
        """The auction now, as if everything had just been taken. Raises EventDamaged."""
        return Gathering(
            cell=self.cell,
            auction_id=self.auction_id,
            auction=self._all()[1],
            stream_version=self.stream_version,
            position=self.position,
        )


def _change(row: EventRow, event: events.AuctionEvents, before: Auction | None, after: Auction) -> Change:
    bid, outbid, extended_to_ms = None, None, 0
    if isinstance(event, events.BidPlaced) and before is not None:
        bid, outbid = after.highest_bid, before.highest_bid
        if outbid is not None and outbid.bidder_id == event.bidder_id:
            outbid = None
        extended_to_ms = after.end_time_ms if after.end_time_ms != before.end_time_ms else 0
    return Change(
        position=row.position,
        stream_version=row.stream_version,
        time_ms=row.hlc_physical,
        kind=_kind(event),
        bid=bid,
        outbid=outbid,
        extended_to_ms=extended_to_ms,
    )


def _kind(event: events.AuctionEvents) -> ChangeKind:
    match event:
        case events.BidRaised():
            return ChangeKind.RAISED
        case events.BidPlaced():
            return ChangeKind.BID
        case events.AuctionCreated():
            return ChangeKind.OPENED
        case events.AuctionClosed():
            return ChangeKind.UNSOLD if event.saga_id is None else ChangeKind.CLOSED
        case events.AuctionCancelled():
            return ChangeKind.CANCELLED
        case events.EscrowFunded() | events.EscrowRefunded() | events.EscrowPaidOut() | events.EscrowRefilled():
            return ChangeKind.ESCROW
        case events.AuctionSettled():
            return ChangeKind.SETTLED
        case events.SettlementFailed():
            return ChangeKind.SETTLEMENT_FAILED
        case _:
            assert_never(event)
