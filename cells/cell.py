"""The interface of a cell: execute commands, read, subscribe. The server uses only this."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, cast
from uuid import UUID

from cells.audit.accesses import AccessLog
from cells.domain.account.account import Account
from cells.domain.account.barrier import barrier_id, carried_id, direction_of
from cells.domain.auction.asset import Asset
from cells.domain.auction.auction import Auction
from cells.domain.audit.refusals import StateUnderRepair
from cells.domain.commands import ApplyLeg, CompensateLeg, NotifyParty
from cells.domain.decision import State, require_here
from cells.domain.peer_rules import require_own_word
from cells.domain.record import replace
from cells.domain.refusals import (
    AssetNotFound,
    AuctionNotFound,
    NoticeNotSent,
    Refused,
    SagaNotFound,
    UserNotFound,
    WrongCell,
)
from cells.domain.sagas.leg import Unreadable
from cells.domain.sagas.saga import Saga
from cells.domain.values import Kind, Ref
from cells.failpoints import NoFailpoints
from cells.home_cache import HomeCache
from cells.log.subscriptions import Subscriptions
from cells.moves.user_bundle import Contacts
from cells.moves.user_import import UserImport
from cells.notices import Notice, Notifier
from cells.outcomes import Outcomes, answers_of
from cells.requests import CaughtUp, CommandRequest, CommandState, Outcome, Progress, Read
from cells.routing import Routing
from cells.store.failures import map_store_errors
from cells.store.ports import EVERYTHING, Directory, EventFilter, EventRow, Store, Versioned
from cells.time.celltime import CellTime
from cells.writer.tally import CommitTally
from cells.writer.writer import Writer

S = TypeVar("S", bound=State)


class QuarantineTable(Protocol):
    async def load(self) -> dict[Ref, str]:
        """The aggregates whose rows are known to be wrong, with the reason. Raises StoreError."""


@dataclass(slots=True, kw_only=True)
class Cell:
    """Complete once it is made. `Leadership` runs it, with the tasks of a leader."""

    name: str
    store: Store
    time: CellTime
    writer: Writer
    directory: Directory
    notifier: Notifier
    quarantine: QuarantineTable
    # Records reads by staff.
    accesses: AccessLog
    contacts: Contacts
    failpoints: NoFailpoints = field(default_factory=NoFailpoints)
    homes: HomeCache[UUID] = field(init=False)
    routing: Routing = field(init=False)
    user_import: UserImport = field(init=False)
    outcomes: Outcomes = field(init=False)
    subscriptions: Subscriptions = field(init=False)
    tally: CommitTally = field(init=False)

    def __post_init__(self) -> None:
        self.homes = HomeCache(directory=self.directory, monotonic_s=self.time.clock.monotonic_s)
        self.routing = Routing(cell=self.name, directory=self.directory, homes=self.homes)
        self.user_import = UserImport(
            cell=self.name,
            store=self.store,
            contacts=self.contacts,
            homes=self.homes,
            clock=self.time.clock,
        )
        self.outcomes = Outcomes(store=self.store, writer=self.writer)
        self.subscriptions = Subscriptions(store=self.store, time=self.time)
        self.tally = CommitTally(clock=self.time.clock)
        self.writer.followers += [self.subscriptions.follow, self.outcomes.follow, self.tally.follow]

    @property
    def leading(self) -> bool:
        return self.writer.leading

    async def load_quarantine(self) -> None:
        """Takes over what an earlier leader, or another process, has found wrong. Raises StoreError."""
        held = await self.quarantine.load()
        # A leader knows the current state better than a lookup that began before it led.
        if not self.leading:
            self.writer.cache.held.clear()
            self.writer.cache.hold(held)

    # --- commands ---------------------------------------------------------------------------------------------------

    async def execute(self, request: CommandRequest) -> Outcome:
        """Decides the command and makes it durable.

        Raises:
            Refused: nothing happened if it is `final`; otherwise send it again with the same command_id.
        """
        command = request.command
        if isinstance(command, ApplyLeg | CompensateLeg):
            return await self._take_leg(request, command)
        cell = self.routing.cell_of(command)
        if cell != self.name:
            await self.routing.require_cell(cell)
        while True:
            # Assumes that all users are in this cell; if the payee turns out to live elsewhere, the money is sent
            # there. A concurrent repeat of the command gets an answer without that knowledge, and is redirected again.
            try:
                outcome = await self.writer.submit(request)
                break
            except (UserNotFound, WrongCell) as error:
                request = await self.routing.redirected(request, error)
        if outcome.state is CommandState.IN_PROGRESS:
            return await self.outcomes.of_one(outcome, request.deadline_s)
        return outcome

    def check_room(self, principal: str, commands: int = 1) -> None:
        """Raises QueueFull or NotLeading if a client need not even try."""
        self.writer.check_room(principal, commands)

    async def execute_all(
        self, requests: Sequence[CommandRequest], *, deadline_s: float | None
    ) -> list[Outcome | Refused]:
        """The result of `execute` for each of a client's commands, which are decided in order.

        Raises:
            Refused: QueueFull or NotLeading; none of them was accepted.
        """
        cells = [self.routing.cell_of(request.command) for request in requests]
        unknown = await self.routing.unknown_of(cells, self.outcomes.time_left_s(deadline_s))
        known = [request for request, cell in zip(requests, cells, strict=True) if cell not in unknown]
        decided = await answers_of(self.writer.submit_all(known))
        placed = await self.routing.placed_all(decided, self.outcomes.time_left_s(deadline_s))
        answers = iter(await self.outcomes.of(placed, deadline_s))
        return [unknown.get(cell) or next(answers) for cell in cells]

    async def home_of(self, user_id: UUID) -> str:
        """The user's home. Raises UserNotFound, or Unavailable if only the router could tell."""
        ref = Ref(Kind.ACCOUNT, user_id)
        found = (await self._load([ref])).get(ref)
        if found is not None and isinstance(found.state, Account):
            move = found.state.move
            return move.to_cell if found.state.has_left and move is not None else self.name
        home = await self.routing.home_of(user_id)
        if home is None:
            raise UserNotFound(user_id=str(user_id))
        return home.cell

    async def _take_leg(self, request: CommandRequest, command: ApplyLeg | CompensateLeg) -> Outcome:
        require_own_word(command, self.name)
        if isinstance(command, ApplyLeg) and isinstance(command.action, NotifyParty):
            request = await self._notified(request, command, command.action)
        return await self.failpoints.around(
            command.leg_id.leg,
            direction_of(command),
            lambda: self.user_import.take(request, command, self.writer.submit),
        )

    async def _notified(self, request: CommandRequest, command: ApplyLeg, action: NotifyParty) -> CommandRequest:
        """Queues the notice before the leg is recorded, and not again afterwards. Raises NoticeNotSent."""
        ref = Ref(Kind.LEG, barrier_id(command, self.name))
        if await self._load([ref, Ref(Kind.LEG, carried_id(command))]):
            return request
        await self.account(action.user_id)  # Users who have left are told at home.
        try:
            status = await self.notifier.notify(
                Notice(ref.id, action.user_id, action.notice, action.auction, *action.amount)
            )
        except Exception as error:
            # The settlement continues whatever is wrong with the mail: it retries, and then gives the notice up.
            raise NoticeNotSent(problem=str(error)) from error
        return replace(request, command=replace(command, action=replace(action, status=status)))

    # --- reads ------------------------------------------------------------------------------------------------------

    async def account(self, user_id: UUID) -> Read[Account]:
        """Raises WrongCell or UserMoving if the account is not here, or not at the moment."""
        try:
            read = await self._read(Ref(Kind.ACCOUNT, user_id), Account, UserNotFound(user_id=str(user_id)))
        except UserNotFound as error:
            raise await self.routing.placed(error) from None
        require_here(read.state, user_id)
        return read

    async def asset(self, asset_id: UUID) -> Read[Asset]:
        unknown = AssetNotFound(asset_id=str(asset_id), cell=self.name)
        return await self._read(Ref(Kind.ASSET, asset_id), Asset, unknown)

    async def auction(self, auction_id: UUID) -> Read[Auction]:
        unknown = AuctionNotFound(auction_id=str(auction_id), cell=self.name)
        return await self._read(Ref(Kind.AUCTION, auction_id), Auction, unknown)

    async def saga(self, saga_id: UUID) -> Read[Saga]:
        unknown = SagaNotFound(saga_id=str(saga_id), cell=self.name)
        return await self._read(Ref(Kind.SAGA, saga_id), Saga, unknown)

    async def list_auctions(
        self, *, states: Sequence[str], after: UUID | None, limit: int
    ) -> list[tuple[UUID, Versioned]]:
        await self._heed_audit()
        listed = await map_store_errors(self.store.list_states(Kind.AUCTION, states=states, after=after, limit=limit))
        for auction_id, entry in listed:
            self.require_readable(Ref(Kind.AUCTION, auction_id), entry)
        return listed

    def subscribe(
        self, *, from_position: int, event_filter: EventFilter = EVERYTHING
    ) -> AsyncGenerator[EventRow | CaughtUp | Progress, None]:
        """The log from a position on: existing events, CaughtUp once, then new ones; Progress while there are none."""
        return self.subscriptions.read(from_position=from_position, event_filter=event_filter)

    async def _read(self, ref: Ref, kind: type[S], unknown: Refused) -> Read[S]:
        # The position is read first, so the state is at least as new.
        position = self.time.durable_position
        await self._heed_audit()
        self.writer.cache.require_sound([ref])
        found = (await self._load([ref])).get(ref)
        if found is None:
            raise unknown
        self.require_readable(ref, found)
        if not isinstance(found.state, kind):
            message = f"{ref} holds a {type(found.state).__name__}"
            raise TypeError(message)
        return Read(state=cast("S", found.state), stream_version=found.stream_version, position=position)

    async def _heed_audit(self) -> None:
        """The leader knows which rows are wrong; any other process looks it up. Raises Unavailable."""
        if not self.leading:
            await map_store_errors(self.load_quarantine())

    def require_readable(self, ref: Ref, entry: Versioned) -> None:
        """Raises StateUnderRepair: rows that are known to be wrong are shown to nobody."""
        self.writer.cache.require_sound([ref])
        if isinstance(entry.state, Unreadable):
            raise StateUnderRepair(kind=ref.kind.value, id=str(ref.id))

    async def _load(self, refs: Sequence[Ref]) -> dict[Ref, Versioned]:
        return await map_store_errors(self.store.load(refs))
