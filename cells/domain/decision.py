"""The inputs and the result of deciding a command."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol, Union
from uuid import UUID

from cells.domain.account.account import Account
from cells.domain.account.balance import MoveStage
from cells.domain.auction.asset import Asset
from cells.domain.auction.auction import Auction
from cells.domain.events import AnyEvent
from cells.domain.moves.refusals import UserMoving
from cells.domain.record import Struct
from cells.domain.refusals import Refused, UserNotFound, WrongCell
from cells.domain.results import Result
from cells.domain.sagas.leg import LegBarrier, Unreadable, UsedReference
from cells.domain.values import LegTag, Ref, derived_id

if TYPE_CHECKING:
    from cells.domain.sagas.saga import Saga

# A saga's state follows its declaration, whose rules are written in the terms of this module.
State = Union[Account, Asset, Auction, "Saga", LegBarrier, UsedReference, Unreadable]


class View(Protocol):
    """The state that a command may read. Reading a piece that was not loaded raises KeyError: see `needs`."""

    def account(self, user_id: UUID) -> Account | None: ...
    def asset(self, asset_id: UUID) -> Asset | None: ...
    def auction(self, auction_id: UUID) -> Auction | None: ...
    def saga(self, saga_id: UUID) -> "Saga | None": ...
    def leg(self, leg_id: UUID) -> LegBarrier: ...
    def reference(self, ref: Ref) -> UsedReference | None: ...
    def open_flows(self, of: UUID | str) -> int:
        """The number of a user's bids and transfers to other cells, or of releases of a cell's bids, under way."""
        ...


class LedgerPolicy(Struct, frozen=True, kw_only=True):
    """The settings of a cell's operator."""

    settlement_timeout_ms: int = 3_600_000
    # How long a bid into another cell may stay unanswered before it is called off.
    bid_valid_ms: int = 10_000
    # The same for a transfer to a user of another cell.
    transfer_valid_ms: int = 10_000
    # The same for a user's move, from the moment at which the user can begin no more flows up to the pivot. Before
    # that, copying may stall for at most this long: a cell that is away ends the move.
    move_valid_ms: int = 10_000
    # How long copying the history may take before that, while the user is served as usual.
    move_copy_ms: int = 86_400_000
    # The most bids and transfers to other cells that one user may have under way.
    user_flows_max: int = 100
    # The most releases of another cell's bids that may be under way before further bids of that cell have to wait.
    cell_releases_max: int = 10_000
    # The fee that the seller pays at settlement, in hundredths of a percent of the price.
    fee_bps: int = 250


class Context(Struct, frozen=True, kw_only=True):
    """Place, time and id of a decision. `now_ms` is the physical part of the batch's HLC."""

    cell: str
    now_ms: int
    command_id: UUID
    # The sender.
    principal: str
    new_event_id: Callable[[], UUID]
    policy: LedgerPolicy

    @property
    def command(self) -> str:
        """Identifies the command: two senders may use one id."""
        return f"{self.principal}/{self.command_id}"

    def derived_id(self, what: str) -> UUID:
        """An id for something that the command makes: always the same for one command, and never the command's own."""
        return derived_id(self.command_id, f"{self.principal}/{self.cell}/{what}")

    def uncommitted(self, aggregate: Ref, event: AnyEvent, caused_by: UUID | None = None) -> "UncommittedEvent":
        return UncommittedEvent(event_id=self.new_event_id(), aggregate=aggregate, event=event, caused_by=caused_by)


class UncommittedEvent(Struct, frozen=True, kw_only=True):
    """An event that has been decided but not stamped. `caused_by` None: by the cause of the command."""

    event_id: UUID
    aggregate: Ref
    event: AnyEvent
    caused_by: UUID | None = None
    leg: LegTag | None = None
    # Set if the event belongs to another flow than the command's own.
    correlation_id: UUID | None = None


class Ending(Struct, frozen=True, kw_only=True):
    """A command in progress has ended together with its saga: with a result or a refusal."""

    command_id: UUID
    saga_id: UUID
    result: Result
    refusal: Refused | None = None


class Replacement(NamedTuple):
    """The state that an aggregate's row must hold: a replay of its stream up to that version."""

    aggregate: Ref
    state: State
    stream_version: int


@dataclass(slots=True, kw_only=True)
class Decision:
    """The events of one command, and the answer to its caller."""

    uncommitted: list[UncommittedEvent] = field(default_factory=list)
    result: Result = field(default_factory=Result)
    # Of a timer that came too early: when it is due.
    due_ms: int | None = None
    # The answer is known when the saga with this id has ended.
    awaits_saga: UUID | None = None
    endings: list[Ending] = field(default_factory=list)
    # States that no event makes: corrections of rows, and of the balances of house accounts.
    replaced: Sequence[Replacement] = ()
    corrections: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def extend(self, uncommitted: Iterable[UncommittedEvent]) -> None:
        self.uncommitted.extend(uncommitted)


def account_of(view: View, user_id: UUID) -> Account:
    account = view.account(user_id)
    if account is None:
        raise UserNotFound(user_id=str(user_id))
    require_here(account, user_id)
    return account


def require_here(account: Account, user_id: UUID) -> None:
    """Raises UserMoving, or WrongCell if the user is at home elsewhere."""
    move = account.move
    if move is None or account.is_here:
        return
    if account.has_left:
        raise WrongCell(resource=f"user {user_id}", cell=move.to_cell, here=move.from_cell, epoch=move.epoch)
    raise UserMoving(user_id=str(user_id), to_cell=move.to_cell)


def settled_account_of(view: View, user_id: UUID) -> Account:
    """The account of a user who begins a flow into other cells, which is not possible shortly before a departure."""
    account = account_of(view, user_id)
    if account.move is not None and account.move.stage is not MoveStage.COPYING:
        raise UserMoving(user_id=str(user_id), to_cell=account.move.to_cell)
    return account
