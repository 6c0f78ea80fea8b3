"""Feeds the watchers of all auctions: from this process's commits while it leads, else from one reader of the log."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, cast, get_args
from uuid import UUID

from cells.audit.history.questions import History
from cells.background import BackgroundTask
from cells.cell import Cell
from cells.domain.audit.refusals import PositionNotReached
from cells.domain.events import AuctionEvents
from cells.domain.record import replace
from cells.domain.refusals import Refused, Unavailable, WatcherTooSlow
from cells.domain.values import Kind, Ref
from cells.store.failures import map_store_errors
from cells.store.ports import EventFilter, EventRow
from cells.watch.changes import CHANGES_MAX, Gathering, Update
from cells.watch.watched import Behind, WatchedAuction
from cells.writer.batch import Commit

if TYPE_CHECKING:
    from cells.domain.auction.auction import Auction

OF_AUCTIONS = EventFilter(event_types=tuple(event.event_type for event in get_args(AuctionEvents)))
# Changes of an auction are gathered for this long at least.
GATHER_S = 0.1
# And so many times as long as the last update took to be sent: a busy process has more to do than to send updates.
GATHER_TIMES = 20
# The updates sent to all watchers of this process together: the more there are, the longer changes are gathered.
SENT_PER_S = 1_000
# Making an update takes as long as sending it to this many watchers.
MAKING = 4
# Concurrent reads of the table by all watchers; further ones wait.
QUERIES_MAX = 2
# How soon it is noticed that this process does not lead any more.
POLL_S = 0.5
# The changes that are read from the table at once, and of one watch in all: further ones are counted.
PAGE = 64
CATCH_UP_MAX = 256


@dataclass(slots=True, kw_only=True)
class AuctionFeed:
    """`encode` serializes an update: once for all watchers of its auction."""

    cell: Cell
    history: History
    encode: Callable[[Update], bytes]
    background: BackgroundTask = field(init=False)
    _watched: dict[UUID, WatchedAuction] = field(default_factory=dict)
    _watchers: int = 0
    # All events up to here have been passed on.
    _position: int = 0
    # This process leads, and its commits are passed on as they are; otherwise the log is read.
    _leads: bool = False
    _queries: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(QUERIES_MAX))

    def __post_init__(self) -> None:
        self.background = BackgroundTask(name="auction_feed", work=self._read_on, every_s=None, outages=(Unavailable,))
        self.cell.writer.followers.append(self.follow)

    async def watch(self, auction_id: UUID, from_position: int) -> AsyncGenerator[bytes, None]:
        """The state before `from_position` (0: now), then updates until the auction's last state.

        Of the past at most CATCH_UP_MAX changes are read, then it goes on with the present.

        Raises:
            AuctionNotFound, StateUnderRepair: as for a read of the auction.
            PositionNotReached: the position is beyond the log's end.
            WatcherTooSlow: the caller has not read for too long.
            Unavailable, Damaged: the log cannot be read.
        """
        await self.cell.auction(auction_id)
        watched = await self._join(auction_id)
        try:
            if from_position:
                start = await self._at(auction_id, from_position - 1, changes_max=PAGE)
            else:
                start = watched.present()
            async with aclosing(self._updates(start, watched)) as updates:
                async for data in updates:
                    yield data
        finally:
            self._leave(watched)

    async def _updates(self, start: Gathering, watched: WatchedAuction) -> AsyncGenerator[bytes, None]:
        """For one watcher: from the table up to the last update of the others, then their updates."""
        if start.auction is not None:
            yield self.encode(start.take())
        enough = start.stream_version + CATCH_UP_MAX
        # Compared again after each update: while that is being sent, the auction's last one may be made.
        while (before := start.stream_version) < watched.sent_version:
            if before < enough:
                await self._read(start, watched.sent_position)
            else:
                start = watched.present()
            yield self.encode(replace(start.take(), after_version=before))
        version, position, number = start.stream_version, start.position, watched.number
        ended = start.ended
        while not ended:
            try:
                update, data = await watched.next(number)
            except Behind:
                raise WatcherTooSlow(auction_id=str(watched.auction_id), next_position=position + 1) from None
            number += 1
            if update.stream_version > version:
                yield data if update.after_version == version else self.encode(update.since(version))
                version, position, ended = update.stream_version, update.position, update.ended

    # --- watchers come and go -----------------------------------------------------------------------------------------

    async def _join(self, auction_id: UUID) -> WatchedAuction:
        if not self.background.running:
            head = await self._head()
            if not self.background.running:
                self._position, self._leads = head, self.cell.time.leading
                self.background.start()
        watched = self._watched.setdefault(auction_id, WatchedAuction(auction_id=auction_id))
        watched.watchers += 1
        self._watchers += 1
        try:
            async with watched.loading:
                if watched.gathering is None:
                    # The head is read now that the reader passes events on: none is missed between the two.
                    watched.begin(await self._at(auction_id, await self._head()))
                    self._schedule(watched)
        except BaseException:
            self._leave(watched)
            raise
        return watched

    def _leave(self, watched: WatchedAuction) -> None:
        watched.watchers -= 1
        self._watchers -= 1
        if not watched.watchers:
            self._forget(watched)
        if not self._watched:
            self._leads = False
            self.background.cancel()

    def _forget(self, watched: WatchedAuction) -> None:
        """Passes no more events on to it; the next watcher of the auction begins anew."""
        if self._watched.get(watched.auction_id) is watched:
            del self._watched[watched.auction_id]

    # --- live ---------------------------------------------------------------------------------------------------------

    def follow(self, commit: Commit) -> None:
        """Receives each commit of this process, in order: events of other auctions take no time."""
        if not self._leads or not commit.events:
            return
        if commit.events[0].row.position != self._position + 1:
            # Another process has led in between.
            self._leads = False
            return
        for event in commit.events:
            if event.aggregate.id in self._watched:
                self._take(event.row)
        self._position = commit.events[-1].row.position

    async def _read_on(self) -> None:
        """Reads the log while this process does not lead. Returns if it cannot be read any more."""
        while True:
            self._leads = self._leads and self.cell.time.leading
            if self._leads:
                await asyncio.sleep(POLL_S)
            elif not await self._read_log():
                return

    async def _read_log(self) -> bool:
        """Passes on what is in the log, until this process leads and has passed on all of it; False: it is damaged."""
        items = self.cell.subscribe(from_position=self._position + 1, event_filter=OF_AUCTIONS)
        try:
            async with aclosing(items):
                async for item in items:
                    if isinstance(item, EventRow):
                        self._take(item)
                    self._position = item.position
                    if self.cell.time.leading and self._position == self.cell.time.durable_position:
                        self._leads = True
                        return True
        except Unavailable:
            raise
        except Refused as refused:
            for watched in list(self._watched.values()):
                self._end(watched, refused)
        return False

    def _take(self, row: EventRow) -> None:
        watched = self._watched.get(row.aggregate_id)
        if watched is None:
            return
        try:
            watched.take(row)
        except Refused as refused:
            self._end(watched, refused)
        else:
            self._schedule(watched)

    def _end(self, watched: WatchedAuction, why: Refused) -> None:
        self._forget(watched)
        watched.end(why)

    def _schedule(self, watched: WatchedAuction) -> None:
        """Makes the next update when it is due, after the other events of the same commit at least."""
        if watched.busy or not watched.has_news:
            return
        watched.busy = True
        loop = asyncio.get_running_loop()
        loop.call_later(max(watched.free_s - loop.time(), 0.0), self._update, watched)

    @property
    def gather_s(self) -> float:
        """How long changes of an auction are gathered at least."""
        return max((self._watchers + MAKING * len(self._watched)) / SENT_PER_S, GATHER_S)

    def _update(self, watched: WatchedAuction) -> None:
        if watched.gathering is None or not watched.watchers:
            return
        try:
            update = watched.gathering.take()
        except Refused as refused:
            self._end(watched, refused)
        else:
            began_s = asyncio.get_running_loop().time()
            watched.publish(update, self.encode(update), partial(self._sent, watched, began_s))

    def _sent(self, watched: WatchedAuction, began_s: float) -> None:
        took_s = asyncio.get_running_loop().time() - began_s
        watched.free_s = began_s + max(self.gather_s, GATHER_TIMES * took_s)
        watched.busy = False
        self._schedule(watched)

    # --- from the table -----------------------------------------------------------------------------------------------

    async def _head(self) -> int:
        if self.cell.time.leading:
            return self.cell.time.durable_position
        return (await map_store_errors(self.cell.store.head())).position

    async def _at(self, auction_id: UUID, position: int, *, changes_max: int = CHANGES_MAX) -> Gathering:
        """The auction after that position. Raises PositionNotReached, Damaged, Unavailable."""
        head = await self._head()
        if position > head:
            raise PositionNotReached(cell=self.cell.name, head=head, next=head + 1, position=position + 1)
        async with self._queries:
            fold = await map_store_errors(self.history.fold(Ref(Kind.AUCTION, auction_id), position))
        return Gathering(
            cell=self.cell.name,
            auction_id=auction_id,
            auction=cast("Auction | None", fold.state),
            stream_version=fold.version,
            position=position,
            changes_max=changes_max,
        )

    async def _read(self, gathering: Gathering, until: int) -> None:
        """Adds the next page of changes. Raises Damaged, Unavailable."""
        auction_id, version = gathering.auction_id, gathering.stream_version + 1
        page = self.history.lookups.stream_from(auction_id, version=version, until=until, limit=PAGE)
        async with self._queries:
            rows, _ = await map_store_errors(page)
        if [each.row.stream_version for each in rows] != list(range(version, version + len(rows))) or not rows:
            raise self.history.incomplete(f"version {version} of auction {auction_id}, or one soon after it")
        for each in rows:
            gathering.add(self.history.intact(each))
