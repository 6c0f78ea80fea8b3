"""Due times: ends of auctions and expiries of holds.

A timer only submits a command; the batch that decides it judges whether the time has come. An early one gets the time
to retry, a duplicate is harmless, and a late one changes nothing but the moment.
"""

import asyncio
import heapq
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from cells.background import Backoff, LeaderTask, in_background, note_failure
from cells.domain.commands import CloseAuction, Command, ExpireHold
from cells.domain.events import EVENT_TYPES, AuctionCreated, BidPlaced, FundsReserved
from cells.domain.moves.events import AccountArrived, AccountReturned
from cells.domain.refusals import NotLeading, Refused
from cells.domain.values import Kind
from cells.requests import CommandRequest, Outcome, request_of_cell
from cells.store.ports import Clock, Ids, Store, Timer
from cells.writer.batch import Commit

log = structlog.get_logger()

# The number submitted at once: they share a commit, and a thousand auctions that end together end in time.
AT_ONCE_MAX = 256
IDLE_S = 60.0
# Events that may set a timer. Looked up by type: isinstance is slow for what is none of them.
TIMED = frozenset[type](
    kind
    for kind in EVENT_TYPES.values()
    if issubclass(kind, AuctionCreated | BidPlaced | FundsReserved | AccountArrived | AccountReturned)
)


@dataclass(slots=True, kw_only=True)
class Timers(LeaderTask):
    cell: str
    store: Store
    clock: Clock
    ids: Ids
    execute: Callable[[CommandRequest], Awaitable[Outcome]]
    _heap: list[tuple[int, int, Timer]] = field(default_factory=list)
    _count: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    # Of timers whose last attempt failed.
    _backoffs: dict[Timer, Backoff] = field(default_factory=dict)

    def follow(self, commit: Commit) -> None:
        # A bid near the end may have moved it; an earlier one has not, and its auction already has its timer.
        near_ms = self.clock.wall_ms() + IDLE_S * 1_000
        for committed in commit.events:
            event, aggregate = committed.event, committed.aggregate.id
            if type(event) not in TIMED:
                continue
            if isinstance(event, AuctionCreated) or (isinstance(event, BidPlaced) and event.end_time_ms < near_ms):
                self._add(Timer(event.end_time_ms, Kind.AUCTION, aggregate, None))
            elif isinstance(event, FundsReserved) and event.expire_time_ms is not None:
                self._add(Timer(event.expire_time_ms, Kind.ACCOUNT, aggregate, event.hold_id))
            elif isinstance(event, AccountArrived | AccountReturned):
                for hold_id, hold in event.holds.items():
                    if hold.expire_time_ms is not None:
                        self._add(Timer(hold.expire_time_ms, Kind.ACCOUNT, aggregate, hold_id))

    async def reload(self) -> None:
        """Loads timers from the present states; one that is added meanwhile is there twice, which is harmless."""
        self._heap.clear()
        self._backoffs.clear()
        for timer in await self.store.timers():
            self._add(timer)

    async def start(self) -> None:
        await self.reload()
        self.background.start()

    def _add(self, timer: Timer) -> None:
        self._count += 1
        heapq.heappush(self._heap, (timer.due_ms, self._count, timer))
        self._changed.set()

    @in_background("timers")
    async def _round(self) -> None:
        await self._until_due()
        await asyncio.gather(*(self._ask(timer) for timer in self._due()))

    def _due(self) -> list[Timer]:
        due: list[Timer] = []
        now_ms = self.clock.wall_ms()
        while self._heap and self._heap[0][0] <= now_ms and len(due) < AT_ONCE_MAX:
            due.append(heapq.heappop(self._heap)[2])
        return due

    async def _ask(self, timer: Timer) -> None:
        """One attempt. If it fails, it is repeated after a pause of its own, independently of the others."""
        try:
            outcome = await self.execute(self._request(timer))
        except NotLeading:
            # The next leader finds it in the store.
            return
        except Refused as error:
            log.warning("timer_refused", kind=timer.kind, reason=error.reason)
            if not error.final:
                self._add_again(timer)
        except Exception:  # noqa: BLE001 - it keeps no other from being asked for
            note_failure(self.background.name, kind=timer.kind, aggregate_id=str(timer.aggregate_id))
            self._add_again(timer)
        else:
            self._backoffs.pop(timer, None)
            # It was too early: a batch's time stands still while no commit raises the clock's bound.
            if outcome.due_ms is not None:
                self._add_again(timer._replace(due_ms=outcome.due_ms))

    def _add_again(self, timer: Timer) -> None:
        """Waits by the loop's clock: the wall clock may be wrong, and be corrected meanwhile."""
        pause_s = self._backoffs.setdefault(timer, Backoff()).next_s()
        asyncio.get_running_loop().call_later(pause_s, self._add, timer)

    async def _until_due(self) -> None:
        while True:
            self._changed.clear()
            left_s = (self._heap[0][0] - self.clock.wall_ms()) / 1_000 if self._heap else IDLE_S
            if left_s <= 0:
                return
            try:
                async with asyncio.timeout(min(left_s, IDLE_S)):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _request(self, timer: Timer) -> CommandRequest:
        command: Command = CloseAuction(auction_id=timer.aggregate_id, by_command=False)
        if timer.hold_id is not None:
            command = ExpireHold(user_id=timer.aggregate_id, hold_id=timer.hold_id)
        user_id = timer.aggregate_id if timer.hold_id is not None else None
        return request_of_cell(self.cell, command, self.ids.event_id(), user_id=user_id)
