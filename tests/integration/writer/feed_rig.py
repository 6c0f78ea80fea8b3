"""A feed of auctions on a cell in memory, and watchers who keep what they are told."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import pairwise
from uuid import UUID

from cells.audit.history.questions import History
from cells.cell import Cell
from cells.domain.commands import CloseAuction, PlaceBid
from cells.domain.values import Money
from cells.store.ports import EventRow
from cells.watch.changes import Update
from cells.watch.feed import AuctionFeed
from tests.doubles.history import MemoryHistoryLookups
from tests.doubles.store import MemoryStore
from tests.local_cells import LocalCell, open_auction, open_user, request


class Feed(AuctionFeed):
    """Keeps what it makes; the bytes are its number."""

    __slots__ = ("made",)

    def __init__(self, cell: Cell, lookups: MemoryHistoryLookups) -> None:
        history = History(
            cell=cell.name,
            store=cell.store,
            time=cell.time,
            lookups=lookups,
            deciding=frozenset,
            placed=cell.routing.placed,
        )
        self.made: list[Update] = []
        super().__init__(cell=cell, history=history, encode=self._made)

    def _made(self, update: Update) -> bytes:
        self.made.append(update)
        return str(len(self.made) - 1).encode()

    async def updates(self, auction_id: UUID, from_position: int = 0) -> AsyncGenerator[Update, None]:
        async with aclosing(self.watch(auction_id, from_position)) as items:
            async for data in items:
                yield self.made[int(data)]


class Lot:
    """A cell with an auction, and two who bid against each other."""

    def __init__(self, cell: LocalCell, store: MemoryStore, auction_id: UUID, bidders: list[UUID]) -> None:
        self.cell = cell
        self.store = store
        self.auction_id = auction_id
        self.bidders = bidders
        self.feed = Feed(cell, MemoryHistoryLookups(store))
        self._amount_minor = 100

    async def bid(self, count: int = 1, *, by: int | None = None) -> None:
        bids = []
        for _ in range(count):
            self._amount_minor += 1
            bidder = self.bidders[self._amount_minor % 2 if by is None else by]
            amount = Money("USD", self._amount_minor)
            bids.append(
                PlaceBid(auction_id=self.auction_id, auction_cell=self.cell.name, bidder_id=bidder, amount=amount)
            )
        await asyncio.gather(*(self.cell.execute(request(bid)) for bid in bids))

    async def close(self) -> None:
        await self.cell.execute(request(CloseAuction(auction_id=self.auction_id, by_command=True)))

    @property
    def versions(self) -> int:
        """The events of the auction so far."""
        return len(self.rows)

    @property
    def rows(self) -> list[EventRow]:
        return [row for row in self.store.log if row.aggregate_id == self.auction_id]


async def lot_of(cell: LocalCell, store: MemoryStore) -> Lot:
    seller = await open_user(cell)
    auction_id = await open_auction(cell, seller)
    return Lot(cell, store, auction_id, [await open_user(cell, 1_000_000) for _ in range(2)])


class Watcher:
    """Follows an auction until it ends, or until it is closed."""

    def __init__(self, lot: Lot, from_position: int = 0, *, breaks: float = 0.0, feed: Feed | None = None) -> None:
        self.updates: list[Update] = []
        self.task = asyncio.create_task(self._watch(feed or lot.feed, lot.auction_id, from_position, breaks))

    async def _watch(self, feed: Feed, auction_id: UUID, position: int, breaks: float) -> None:
        """Now and then it breaks off, and resumes."""
        chance = random.Random(position)
        while not (self.updates and self.updates[-1].ended):
            async with aclosing(feed.updates(auction_id, position)) as updates:
                async for update in updates:
                    self.updates.append(update)
                    position = update.position + 1
                    if chance.random() < breaks:
                        break

    @property
    def version(self) -> int:
        return self.updates[-1].stream_version if self.updates else -1

    @property
    def changes(self) -> list[int]:
        return [change.stream_version for update in self.updates for change in update.changes]

    def is_gapless(self) -> bool:
        """Each update begins where the one before ended, and holds or counts every change since."""
        follows = all(one.stream_version == other.after_version for one, other in pairwise(self.updates))
        counted = all(
            [change.stream_version for change in update.changes]
            == list(range(update.after_version + update.left_out + 1, update.stream_version + 1))
            for update in self.updates
        )
        return follows and counted

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
