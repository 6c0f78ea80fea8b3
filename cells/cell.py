"""The cell's face: execute a command, read, subscribe. The server knows nothing else of it."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast
from uuid import UUID

import structlog

from cells.celltime import CellTime
from cells.domain.account import Account
from cells.domain.asset import Asset
from cells.domain.auction import Auction
from cells.domain.commands import ApplyLeg, CompensateLeg, NotifyParty, PlaceBid
from cells.domain.decision import State
from cells.domain.leg import LegBarrier
from cells.domain.refusals import (
    AssetNotFound,
    AuctionNotFound,
    CellUnknown,
    CommandNotFound,
    InProgress,
    Refused,
    SagaNotFound,
    Unavailable,
    UserNotFound,
    WrongCell,
)
from cells.domain.saga import Saga
from cells.domain.values import Direction, Kind, Ref
from cells.failpoints import Failpoints
from cells.group import Commit
from cells.leadership import Leadership
from cells.outcomes import status_of
from cells.ports import (
    EVERYTHING,
    Directory,
    EventFilter,
    EventRow,
    Notifier,
    Store,
    StoreError,
    Versioned,
)
from cells.requests import CaughtUp, CommandRequest, CommandState, CommandStatus, Outcome, Read
from cells.sagas.engine import SagaEngine
from cells.subscriptions import Subscriptions
from cells.timers import Timers
from cells.writer import Writer

log = structlog.get_logger()

# How long a caller without a deadline waits for a bid into another cell.
WAIT_MAX_S = 30.0
# What is left of a caller's deadline for the answer to travel.
ANSWER_MARGIN_S = 0.1

S = TypeVar("S", bound=State)


@dataclass(slots=True, kw_only=True)
class Cell:
    name: str
    store: Store
    time: CellTime
    writer: Writer
    directory: Directory
    notifier: Notifier
    failpoints: Failpoints = field(default_factory=Failpoints)
    engine: SagaEngine | None = None
    timers: Timers | None = None
    _waiting: dict[UUID, asyncio.Event] = field(default_factory=dict)
    _subscriptions: Subscriptions | None = None
    _leadership: Leadership | None = None

    # --- life -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Leads whenever it can, until `stop`."""
        followers = [part.follow for part in (self.engine, self.timers) if part is not None]
        self.writer.followers[:] = [*followers, self._log().follow, self._wake_waiting]
        self._leadership = Leadership(
            store=self.store, time=self.time, writer=self.writer, began=self._began, ended=self._ended
        )
        await self._leadership.run()

    def stop(self) -> None:
        if self._leadership is not None:
            self._leadership.stop()

    @property
    def leading(self) -> bool:
        return self.writer.leading

    @property
    def standing_by(self) -> bool:
        """Whether another process has been seen to lead."""
        return self._leadership is not None and self._leadership.standing_by

    async def _began(self) -> None:
        for part in (self.engine, self.timers):
            if part is not None:
                await part.start()

    async def _ended(self) -> None:
        for part in (self.timers, self.engine):
            if part is not None:
                await part.stop()

    # --- commands ---------------------------------------------------------------------------------------------------

    async def execute(self, request: CommandRequest) -> Outcome:
        """Has the command decided and made durable.

        Raises:
            Refused: and nothing happened where `final`; otherwise ask again with the same command_id.
        """
        command = request.command
        if isinstance(command, ApplyLeg | CompensateLeg):
            return await self._take_leg(request, command)
        if isinstance(command, PlaceBid) and not await self._has_way_to(command.auction_cell):
            raise CellUnknown(cell=command.auction_cell)
        try:
            outcome = await self.writer.submit(request)
        except UserNotFound as error:
            raise await self._placed(error) from None
        if outcome.state is CommandState.IN_PROGRESS:
            return await self._end_of(request, replayed=outcome.replayed)
        return outcome

    async def _has_way_to(self, cell: str) -> bool:
        """A bid to nowhere would hold its money until nobody can say that it was never placed."""
        return cell == self.name or await self.directory.knows_cell(cell)

    async def home_of(self, user_id: UUID) -> str:
        """Where a user is at home. Raises UserNotFound, or Unavailable where only the router could tell."""
        ref = Ref(Kind.ACCOUNT, user_id)
        if ref in await self._load([ref]):
            return self.name
        home = await self.directory.home_of(user_id)
        if home is None:
            raise UserNotFound(user_id=str(user_id))
        return home

    async def _take_leg(self, request: CommandRequest, command: ApplyLeg | CompensateLeg) -> Outcome:
        action = isinstance(command, ApplyLeg)
        leg, direction = command.leg_id.leg, Direction.ACTION if action else Direction.COMPENSATION
        self.failpoints.refuse(leg, direction)
        if isinstance(command, ApplyLeg) and isinstance(command.action, NotifyParty):
            request = await self._notified(request, command, command.action)
        outcome = await self.writer.submit(request)
        self.failpoints.hit("after-commit", leg, direction)
        return outcome

    async def _placed(self, error: UserNotFound) -> Refused:
        """A user without an account here may be at home elsewhere."""
        home = await self.directory.home_of(UUID(str(error.facts["user_id"])))
        if home is None or home == self.name:
            return error
        return WrongCell(resource=f"user {error.facts['user_id']}", cell=home, here=self.name)

    async def _notified(self, request: CommandRequest, command: ApplyLeg, action: NotifyParty) -> CommandRequest:
        """Asks the mail server before the leg is recorded, and not again once it is."""
        ref = Ref(Kind.LEG, command.leg_id.aggregate_id())
        found = (await self._load([ref])).get(ref)
        if found is not None and isinstance(found.state, LegBarrier):
            return request
        status = await self.notifier.notify(
            user_id=action.user_id,
            auction=action.auction,
            notice=action.notice,
            currency=action.amount.currency,
            amount_minor=action.amount.amount_minor,
        )
        return replace(request, command=replace(command, action=replace(action, status=status)))

    async def _end_of(self, request: CommandRequest, *, replayed: bool) -> Outcome:
        """Waits for the saga that answers the command, as long as the caller does."""
        event = self._waiting.setdefault(request.command_id, asyncio.Event())
        wait_s = WAIT_MAX_S
        if request.deadline_s is not None:
            wait_s = request.deadline_s - self.time.clock.monotonic_s() - ANSWER_MARGIN_S
        try:
            # It may have ended between the commit and now.
            status = await self.command(request.command_id)
            if status.state is CommandState.IN_PROGRESS:
                await asyncio.wait_for(event.wait(), max(wait_s, 0))
                status = await self.command(request.command_id)
        except TimeoutError:
            raise InProgress(command_id=str(request.command_id)) from None
        finally:
            self._waiting.pop(request.command_id, None)
        if status.refusal is not None:
            raise status.refusal
        return Outcome(
            command_id=request.command_id,
            result=status.result,
            position=status.position,
            hlc=status.hlc,
            replayed=replayed,
        )

    def _wake_waiting(self, commit: Commit) -> None:
        for ending in commit.endings:
            waiting = self._waiting.get(ending.command_id)
            if waiting is not None:
                waiting.set()

    # --- reads ------------------------------------------------------------------------------------------------------

    async def account(self, user_id: UUID) -> Read[Account]:
        try:
            return await self._read(Ref(Kind.ACCOUNT, user_id), Account, UserNotFound(user_id=str(user_id)))
        except UserNotFound as error:
            raise await self._placed(error) from None

    async def asset(self, asset_id: UUID) -> Read[Asset]:
        unknown = AssetNotFound(asset_id=str(asset_id), cell=self.name)
        return await self._read(Ref(Kind.ASSET, asset_id), Asset, unknown)

    async def auction(self, auction_id: UUID) -> Read[Auction]:
        unknown = AuctionNotFound(auction_id=str(auction_id), cell=self.name)
        return await self._read(Ref(Kind.AUCTION, auction_id), Auction, unknown)

    async def saga(self, saga_id: UUID) -> Read[Saga]:
        unknown = SagaNotFound(saga_id=str(saga_id), cell=self.name)
        return await self._read(Ref(Kind.SAGA, saga_id), Saga, unknown)

    def saga_attempts(self, saga_id: UUID) -> tuple[int, str]:
        return self.engine.attempts(saga_id) if self.engine is not None else (0, "")

    async def list_auctions(
        self, *, states: Sequence[str], after: UUID | None, limit: int
    ) -> list[tuple[UUID, Versioned]]:
        return await self._list(Kind.AUCTION, states, after, limit)

    async def list_sagas(
        self, *, states: Sequence[str], after: UUID | None, limit: int
    ) -> list[tuple[UUID, Versioned]]:
        return await self._list(Kind.SAGA, states, after, limit)

    async def command(self, command_id: UUID) -> CommandStatus:
        """What became of a command. Raises CommandNotFound where nothing was done under its id."""
        try:
            row = (await self.store.outcomes([command_id])).get(command_id)
        except StoreError as error:
            raise Unavailable(problem=str(error)) from error
        if row is None:
            raise CommandNotFound(command_id=str(command_id), cell=self.name)
        return status_of(row)

    def subscribe(
        self, *, from_position: int, event_filter: EventFilter = EVERYTHING
    ) -> AsyncGenerator[EventRow | CaughtUp, None]:
        """The log from a position on: what is there, CaughtUp once, then what comes."""
        return self._log().read(from_position=from_position, event_filter=event_filter)

    def _log(self) -> Subscriptions:
        if self._subscriptions is None:
            self._subscriptions = Subscriptions(store=self.store, time=self.time)
        return self._subscriptions

    async def _read(self, ref: Ref, kind: type[S], unknown: Refused) -> Read[S]:
        # The position is taken first: the state is at least as new.
        position = self.time.durable_position
        found = (await self._load([ref])).get(ref)
        if found is None:
            raise unknown
        if not isinstance(found.state, kind):
            message = f"{ref} holds a {type(found.state).__name__}"
            raise TypeError(message)
        return Read(state=cast("S", found.state), stream_version=found.stream_version, position=position)

    async def _load(self, refs: Sequence[Ref]) -> dict[Ref, Versioned]:
        try:
            return await self.store.load(refs)
        except StoreError as error:
            raise Unavailable(problem=str(error)) from error

    async def _list(
        self, kind: Kind, states: Sequence[str], after: UUID | None, limit: int
    ) -> list[tuple[UUID, Versioned]]:
        try:
            return await self.store.list_states(kind, states=states, after=after, limit=limit)
        except StoreError as error:
            raise Unavailable(problem=str(error)) from error
