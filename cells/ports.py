"""What a cell needs from outside of itself. Adapters are handed in at the composition root.

`Store` is the cell's database, `Peers` the other cells, `Directory` who lives where, `Clock` and `Ids` time and chance.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, Protocol
from uuid import UUID

from cells.baggage import Baggage, Luggage
from cells.domain.account import Account
from cells.domain.asset import Asset
from cells.domain.auction import Auction
from cells.domain.commands import LegAction
from cells.domain.home import Home
from cells.domain.leg import LegBarrier, LegResult, Unreadable, UsedReference
from cells.domain.record import Struct, field
from cells.domain.saga import Saga, SagaKind, SagaState
from cells.domain.values import Kind, LegId, Ref

POSITION_MAX = 2**63 - 1

State = Account | Asset | Auction | Saga | LegBarrier | UsedReference | Unreadable


class Versioned(NamedTuple):
    """A piece of state and the version of its stream (0 where the state has no stream of its own)."""

    state: State
    stream_version: int


class EventRow(NamedTuple):
    """A row of event_store, fields in the order of its columns. JSON is canonical text (docs/log-format.md)."""

    position: int
    event_id: UUID
    event_type: str
    aggregate_id: UUID
    stream_version: int
    causation_id: UUID | None
    correlation_id: UUID
    hlc_physical: int
    hlc_logical: int
    vector_clock: str
    payload: str
    metadata: str
    user_id: UUID | None
    recorded_at: datetime
    leaf_hash: bytes


class AccountEntryRow(NamedTuple):
    """The change an event made to a user's account, and the balance after it, bucket by bucket."""

    account_id: UUID
    currency: str
    position: int
    available_change: int
    reserved_change: int
    pending_change: int
    available_after: int
    reserved_after: int
    pending_after: int


class ClearingEntryRow(NamedTuple):
    """One side of a movement between cells: the posting to clearing/{peer}. Both sides share clearing_id."""

    clearing_id: UUID
    position: int
    peer: str
    currency: str
    amount_minor: int


class LegRow(NamedTuple):
    """The barrier's index: (leg_id, direction) is unique, so that the database forbids a double effect too."""

    leg_id: UUID
    direction: str
    result: str
    event_id: UUID
    position: int


class OutcomeRow(NamedTuple):
    """What a command came to, as JSON: see cells/outcomes.py. `principal` and `command_id` name the command."""

    command_id: UUID
    fingerprint: bytes
    outcome: str
    position: int
    hlc_physical: int
    hlc_logical: int
    recorded_at: datetime
    # Whose command it was.
    user_id: UUID | None
    # Empty: stored before senders were.
    principal: str
    # Whether an event in the stream of the user's account names the command.
    in_stream: bool = False
    # In whose log the position and the stamp are; None: in this cell's.
    cell: str | None = None
    # The saga that answers it, where one does.
    saga_id: UUID | None = None


class ReferenceRow(NamedTuple):
    reference_id: UUID
    kind: str
    reference: str
    position: int


class ProjectionRow(NamedTuple):
    """The final state of a touched aggregate (ACCOUNT, ASSET, AUCTION or SAGA), as canonical JSON."""

    kind: Kind
    aggregate_id: UUID
    stream_version: int
    state: str


class Head(Struct, frozen=True, kw_only=True):
    """The head row: who may write, where the log ends, and how far the clock was promised."""

    cell: str
    epoch: int
    position: int
    # No stamp at or past this was ever given out: a successor starts its clock here.
    hlc_bound_ms: int
    # Rises with each beat; a standby watches it change. 0: nobody leads, the last leader has stepped down.
    beat: int
    # Of the last event: what the cell knew of the others.
    vector_clock: dict[str, int]


class Batch(Struct, frozen=True, kw_only=True):
    """All that one transaction writes. An empty one is a beat, and with `stepping_down` the last one."""

    epoch: int
    # The head is moved from `position_before` to `position_after` by compare-and-set on (epoch, position).
    position_before: int
    position_after: int
    # Never lowers the one in the head, but for who steps down: no stamp is given out after that.
    hlc_bound_ms: int
    stepping_down: bool = False
    events: Sequence[EventRow] = ()
    account_entries: Sequence[AccountEntryRow] = ()
    clearing_entries: Sequence[ClearingEntryRow] = ()
    legs: Sequence[LegRow] = ()
    references: Sequence[ReferenceRow] = ()
    # Inserted; inserted where the command is not known; put in the place of one in progress.
    outcomes: Sequence[OutcomeRow] = ()
    brought_outcomes: Sequence[OutcomeRow] = ()
    ended_outcomes: Sequence[OutcomeRow] = ()
    projections: Sequence[ProjectionRow] = ()
    # Change of each house account: (account, currency) -> minor units.
    house_changes: dict[tuple[str, str], int] = field(default_factory=dict)


class StoreError(Exception):
    """The root of what a store raises.

    StoreError
    ├── Fenced            another process has raised the epoch: this one must stop writing
    │   └── HeadMoved     nobody has, and the head is another: somebody has written past the cell
    ├── Poisoned          SQLSTATE class 22 or 23: something in the batch cannot be stored, nothing was
    ├── CommitUnknown     the connection was lost in COMMIT: only `claim` can tell
    └── StoreUnavailable  nothing was written, try again
    """


class Fenced(StoreError):
    """another process leads the cell"""


class HeadMoved(Fenced):
    """the head was moved past the cell"""


class Poisoned(StoreError):
    """the batch holds something that cannot be stored"""

    def __init__(self, sqlstate: str, detail: str) -> None:
        super().__init__(f"{sqlstate}: {detail}")
        self.sqlstate = sqlstate


class CommitUnknown(StoreError):
    """the connection was lost in COMMIT"""


class StoreUnavailable(StoreError):
    """the database cannot be reached"""


class EventFilter(Struct, frozen=True, kw_only=True):
    """Empty fields filter nothing; several must all match."""

    event_types: tuple[str, ...] = ()
    aggregate_id: UUID | None = None
    correlation_id: UUID | None = None
    user_id: UUID | None = None

    @property
    def has_index(self) -> bool:
        """Whether the store finds the events without looking through all others."""
        return self.aggregate_id is not None or self.correlation_id is not None

    def lets(self, row: EventRow) -> bool:
        return (
            (not self.event_types or row.event_type in self.event_types)
            and self.aggregate_id in {None, row.aggregate_id}
            and self.correlation_id in {None, row.correlation_id}
            and self.user_id in {None, row.user_id}
        )


EVERYTHING = EventFilter()


class SagaPlace(NamedTuple):
    """Where a saga stands in a list: the oldest come first."""

    started_ms: int
    saga_id: UUID


class SagaFilter(Struct, frozen=True, kw_only=True):
    """What must all hold of a saga. Empty fields filter nothing."""

    states: tuple[SagaState, ...] = ()
    kind: SagaKind | None = None
    # One of the cells that take part.
    cell: str = ""
    started_from_ms: int = 0
    started_before_ms: int = 2**63 - 1
    paused: bool = False
    ids: frozenset[UUID] | None = None  # None: any.

    def lets(self, saga_id: UUID, saga: Saga) -> bool:
        return (
            (not self.states or saga.state in self.states)
            and self.kind in {None, saga.kind}
            and (not self.cell or self.cell in saga.cells)
            and self.started_from_ms <= saga.started_ms < self.started_before_ms
            and (saga.paused or not self.paused)
            and (self.ids is None or saga_id in self.ids)
        )


class Timer(NamedTuple):
    """Something that falls due: an auction's end (kind AUCTION) or a hold's expiry (kind ACCOUNT, with hold_id)."""

    due_ms: int
    kind: Kind
    aggregate_id: UUID
    hold_id: UUID | None


class Store(Luggage, Protocol):
    """The event store of one cell. Every method may raise StoreUnavailable."""

    async def head(self) -> Head:
        """The durable head."""

    async def claim(self, *, expected_epoch: int | None = None) -> Head:
        """Raises the epoch by one, waiting for any transaction of the old one, and returns the head as it then is.

        With `expected_epoch`: only if the epoch still is that (compare-and-set), else raises Fenced. Raises
        SagasOfAnotherEngine, and the epoch stays, where this process's engine may not take them over.
        """

    async def append(self, batch: Batch) -> None:
        """Writes the batch in one transaction, durable on return. Raises Fenced, Poisoned, CommitUnknown."""

    async def load(self, refs: Sequence[Ref]) -> dict[Ref, Versioned]:
        """Durable state, one query a kind; what does not exist is left out."""

    async def outcomes(self, command_ids: Sequence[UUID]) -> Sequence[OutcomeRow]:
        """What is stored under these ids, whoever sent the commands."""

    async def events(
        self,
        *,
        from_position: int,
        until_position: int = POSITION_MAX,
        limit: int,
        event_filter: EventFilter = EVERYTHING,
    ) -> list[EventRow]:
        """At most `limit` matching events from `from_position` to `until_position`, both included, by position."""

    async def list_states(
        self, kind: Kind, *, states: Sequence[str], after: UUID | None, limit: int
    ) -> list[tuple[UUID, Versioned]]:
        """Aggregates of `kind` (AUCTION or SAGA) whose state's `state` is one of `states` (empty: any), by id."""

    async def list_sagas(
        self, wanted: SagaFilter, *, after: SagaPlace | None, limit: int
    ) -> list[tuple[UUID, Versioned]]:
        """Those that `wanted` lets, oldest first."""

    async def timers(self) -> list[Timer]:
        """Every auction still active and every hold that expires."""

    async def close(self) -> None:
        """Gives up all connections, within a bounded time."""


class LegCall(Struct, frozen=True, kw_only=True):
    """One leg as it is asked of a cell."""

    leg_id: LegId
    action: LegAction
    orchestrator: str
    causation_id: UUID
    user_id: UUID


class LegAnswer(NamedTuple):
    """A definite answer: what the leg came to, and the event that did it."""

    result: LegResult
    event_id: UUID


class PeerUnknown(Exception):
    """The call may or may not have happened: ask again with the same id. `answered`: the peer is there, at least."""

    def __init__(self, problem: str, *, answered: bool = False) -> None:
        super().__init__(problem)
        self.answered = answered


class Peers(Protocol):
    """The other cells. Definite refusals are raised as Refused that is `final`, or WrongCell; all else as PeerUnknown.

    The directory of homes is asked like a cell, for its one leg.
    """

    async def apply_leg(self, cell: str, call: LegCall, *, timeout_s: float) -> LegAnswer:
        """Asks `cell` to take the leg."""

    async def compensate_leg(self, cell: str, call: LegCall, *, timeout_s: float) -> LegAnswer:
        """Asks `cell` to undo the leg. APPLIED as an answer means: a pivot, done, no way back."""

    async def bring(self, cell: str, baggage: Baggage, *, timeout_s: float) -> dict[str, int]:
        """Has `cell` take in baggage; again is no harm.

        Returns, where nothing was in it, how many events of the user's account in each cell are there already.
        """


class Directory(Protocol):
    """Who lives where."""

    async def home_of(self, user_id: UUID) -> Home | None:
        """None if no such user is registered. Raises Unavailable."""

    async def home_now(self, user_id: UUID) -> Home | None:
        """The same, never from memory. Raises Unavailable."""

    async def knows_cell(self, cell: str) -> bool:
        """Whether there is a cell of that name. Raises Unavailable."""


class Clock(Protocol):
    def wall_ms(self) -> int:
        """Milliseconds since the Unix epoch."""

    def wall(self) -> datetime:
        """The same in UTC, to the microsecond."""

    def monotonic_s(self) -> float:
        """Seconds on a clock that never jumps."""


class Ids(Protocol):
    def event_id(self) -> UUID:
        """A new UUID, version 7."""


class Notice(NamedTuple):
    """What a person is to be told; the same `notice_id` is the same notice."""

    notice_id: UUID
    user_id: UUID
    # AUCTION_WON, ASSET_SOLD, SETTLEMENT_FAILED_FOR_WINNER or SETTLEMENT_FAILED_FOR_SELLER
    notice: str
    auction: str
    currency: str
    amount_minor: int


class Notifier(Protocol):
    async def notify(self, notice: Notice) -> str:
        """Sees to it that the person is told, once: QUEUED, or SKIPPED where nobody gets mail. Raises on failure."""
