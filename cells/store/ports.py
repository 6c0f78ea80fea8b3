"""The ports of a cell. The composition root passes in the adapters.

`Store` is the cell's database, `Peers` the other cells, `Directory` the users' homes, `Clock` and `Ids` time and ids.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, Protocol
from uuid import UUID

from cells.domain.commands import LegAction
from cells.domain.decision import State
from cells.domain.moves.home import Home
from cells.domain.record import Struct, field
from cells.domain.sagas.definition import SagaKind
from cells.domain.sagas.leg import LegMark
from cells.domain.sagas.saga import SagaState
from cells.domain.values import Direction, Kind, LegId, Ref
from cells.moves.user_bundle import HistoryCopies, UserBundle

POSITION_MAX = 2**63 - 1


class Versioned(NamedTuple):
    """A piece of state and the version of its stream (0 if the state has no stream of its own)."""

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
    """The barrier's index: (leg_id, direction) is unique, so the database too rejects a double effect."""

    leg_id: UUID
    direction: str
    result: str
    event_id: UUID
    position: int


class OutcomeRow(NamedTuple):
    """The outcome of a command as JSON (cells/store/outcomes.py). `principal` and `command_id` identify the command."""

    command_id: UUID
    fingerprint: bytes
    outcome: str
    position: int
    hlc_physical: int
    hlc_logical: int
    recorded_at: datetime
    # The user that the command concerns.
    user_id: UUID | None
    # Empty: stored before senders were recorded.
    principal: str
    # An event in the stream of the user's account names the command.
    in_stream: bool = False
    # The cell whose log has the position and the stamp; None: this one.
    cell: str | None = None
    # The saga that answers it, if any.
    saga_id: UUID | None = None


class ReferenceRow(NamedTuple):
    reference_id: UUID
    kind: str
    reference: str
    position: int


class ProjectionRow(NamedTuple):
    """The final state of a changed aggregate (ACCOUNT, ASSET, AUCTION or SAGA), as canonical JSON, and its columns."""

    kind: Kind
    aggregate_id: UUID
    stream_version: int
    state: str
    columns: tuple[object, ...] = ()


class Head(Struct, frozen=True, kw_only=True):
    """The head row: the writer's epoch, the end of the log, and the promised clock bound."""

    cell: str
    epoch: int
    position: int
    # No stamp at or past this was ever issued: a successor starts its clock here.
    hlc_bound_ms: int
    # Rises with each beat, which a standby watches. 0: there is no leader, the last one has stepped down.
    beat: int
    # Of the last event: the cell's knowledge of the other cells.
    vector_clock: dict[str, int]


class Batch(Struct, kw_only=True):
    """Everything that one transaction writes. An empty batch is a beat, and with `stepping_down` the last one."""

    # The head is moved from `position_before` to `position_after` by compare-and-set on (epoch, position).
    position_before: int
    position_after: int = 0
    epoch: int = 0
    # Never lowers the one in the head, except when stepping down: no stamp is issued after that.
    hlc_bound_ms: int = 0
    stepping_down: bool = False
    events: list[EventRow] = field(default_factory=list)
    account_entries: list[AccountEntryRow] = field(default_factory=list)
    clearing_entries: list[ClearingEntryRow] = field(default_factory=list)
    legs: list[LegRow] = field(default_factory=list)
    references: list[ReferenceRow] = field(default_factory=list)
    # Inserted if the command is unknown; replaces an outcome in progress.
    outcomes: list[OutcomeRow] = field(default_factory=list)
    brought_outcomes: list[OutcomeRow] = field(default_factory=list)
    ended_outcomes: list[OutcomeRow] = field(default_factory=list)
    projections: list[ProjectionRow] = field(default_factory=list)
    # Change of each house account: (account, currency) -> minor units.
    house_changes: dict[tuple[str, str], int] = field(default_factory=dict)

    @property
    def is_beat(self) -> bool:
        return not (self.events or self.outcomes or self.brought_outcomes or self.ended_outcomes)


class StoreError(Exception):
    """The root of a store's errors.

    StoreError
    ├── Fenced            another process has raised the epoch: this one must stop writing
    │   └── HeadMoved     under the same epoch, the head was moved past the cell
    ├── Poisoned          SQLSTATE class 22 or 23: the batch contains something that cannot be stored; nothing was
    ├── CommitUnknown     the connection was lost in COMMIT: only `claim` can tell the outcome
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
    """Empty fields filter nothing; all others must match."""

    event_types: tuple[str, ...] = ()
    aggregate_id: UUID | None = None
    correlation_id: UUID | None = None
    user_id: UUID | None = None

    @property
    def has_index(self) -> bool:
        """Whether the store can find the events without scanning all others."""
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
    """The position of a saga in a list: the oldest come first."""

    started_ms: int
    saga_id: UUID


class SagaFilter(Struct, frozen=True, kw_only=True):
    """Conditions that must all hold. Empty fields filter nothing."""

    states: tuple[SagaState, ...] = ()
    kind: SagaKind | None = None
    # One of the cells that take part.
    cell: str = ""
    started_from_ms: int = 0
    started_before_ms: int = POSITION_MAX
    paused: bool = False
    ids: frozenset[UUID] | None = None  # None: any.


class Timer(NamedTuple):
    """A due time: an auction's end (kind AUCTION) or a hold's expiry (kind ACCOUNT, with hold_id)."""

    due_ms: int
    kind: Kind
    aggregate_id: UUID
    hold_id: UUID | None


class Store(HistoryCopies, Protocol):
    """The event store of one cell. Every method may raise StoreUnavailable."""

    async def head(self) -> Head:
        """The durable head."""

    async def claim(self, *, expected_epoch: int | None = None) -> Head:
        """Raises the epoch by one, waiting for any transaction of the old one, and returns the head afterwards.

        With `expected_epoch`: only if the epoch is still that (compare-and-set), otherwise raises Fenced. Raises
        SagasOfAnotherEngine, without changing the epoch, if this process's engine may not take them over.
        """

    async def append(self, batch: Batch) -> None:
        """Writes the batch in one transaction, durable on return. Raises Fenced, Poisoned, CommitUnknown."""

    async def load(self, refs: Sequence[Ref]) -> dict[Ref, Versioned]:
        """Durable state, one query per kind; missing state is left out."""

    async def outcomes(self, command_ids: Sequence[UUID]) -> Sequence[OutcomeRow]:
        """The rows stored under these ids, from any sender."""

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
        """The sagas that match `wanted`, oldest first."""

    async def timers(self) -> list[Timer]:
        """Every auction still active and every hold that expires."""

    async def close(self) -> None:
        """Closes all connections, within a bounded time."""


class LegCall(Struct, frozen=True, kw_only=True):
    """One leg as requested from a cell."""

    leg_id: LegId
    action: LegAction
    orchestrator: str
    causation_id: UUID
    user_id: UUID


class PeerUnknown(Exception):
    """The call may or may not have happened: retry with the same id. `answered`: the peer is reachable, at least."""

    def __init__(self, problem: str, *, answered: bool = False) -> None:
        super().__init__(problem)
        self.answered = answered


class Peers(Protocol):
    """The other cells. Definite refusals are raised as Refused that is `final`, or WrongCell; all else as PeerUnknown.

    The directory of homes is called like a cell, for its one leg.
    """

    async def request_leg(self, cell: str, call: LegCall, direction: Direction, *, timeout_s: float) -> LegMark:
        """Requests the leg from `cell`, or undoing it: APPLIED then means that a pivot was done, and stays."""

    async def bring(self, cell: str, bundle: UserBundle, *, timeout_s: float) -> dict[str, int]:
        """Delivers bundle to `cell`; repeating it is harmless.

        An empty delivery returns how many events of the user's account in each cell are already there.
        """


class Directory(Protocol):
    """The users' homes."""

    async def find(self, user_id: UUID) -> Home | None:
        """The user's home now; None if no such user is registered. Raises Unavailable."""

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
