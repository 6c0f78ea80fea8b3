"""One watched auction: its last updates, each serialized once, and the watchers that wait for the next one."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple
from uuid import UUID

from cells.domain.refusals import Refused, refusal
from cells.store.ports import EventRow
from cells.watch.changes import Gathering, Update

# A watcher that is this many updates behind is ended.
UPDATES_MAX = 64
# The events that are kept while the auction's state is loaded.
EARLY_MAX = 10_000
# Watchers that are woken at once: other calls are served between two slices.
SLICE = 32


class Behind(Exception):
    """The updates that the watcher wants are no longer kept."""


class Sent(NamedTuple):
    update: Update
    data: bytes


@dataclass(slots=True, kw_only=True, eq=False)
class WatchedAuction:
    """Watchers hold the number of the next update, not updates: a slow one costs no memory."""

    auction_id: UUID
    # None until the state is loaded.
    gathering: Gathering | None = None
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)
    watchers: int = 0
    # The number of updates so far.
    number: int = 0
    # By the loop's clock: when the next update may be made.
    free_s: float = 0.0
    # Whether an update is scheduled, or being sent.
    busy: bool = False
    _sent: deque[Sent] = field(default_factory=lambda: deque(maxlen=UPDATES_MAX))
    _early: deque[EventRow] = field(default_factory=lambda: deque(maxlen=EARLY_MAX))
    _waiting: dict[asyncio.Future[None], None] = field(default_factory=dict)
    _ended: Refused | None = None

    def begin(self, gathering: Gathering) -> None:
        """Continues from a loaded state. Raises Unavailable if the events since do not follow it."""
        for row in self._early:
            if row.stream_version > gathering.stream_version:
                gathering.add(row)
        self._early.clear()
        self.gathering = gathering

    def take(self, row: EventRow) -> None:
        """The next event, or one that was loaded already. Raises Unavailable, EventDamaged."""
        if self.gathering is None:
            self._early.append(row)
        elif row.stream_version > self.gathering.stream_version:
            self.gathering.add(row)

    @property
    def sent_version(self) -> int:
        """The version after the last update."""
        return self.gathering.after_version if self.gathering is not None else 0

    @property
    def sent_position(self) -> int:
        return self.gathering.after_position if self.gathering is not None else 0

    @property
    def has_news(self) -> bool:
        gathering = self.gathering
        return gathering is not None and gathering.stream_version > gathering.after_version

    def present(self) -> Gathering:
        """Raises EventDamaged."""
        if self.gathering is None:
            raise ValueError(f"auction {self.auction_id} is not loaded")
        return self.gathering.present()

    def publish(self, update: Update, data: bytes, then: Callable[[], None]) -> None:
        """Calls `then` once all watchers that waited have sent it."""
        self._sent.append(Sent(update, data))
        self.number += 1
        self._wake_all(then)

    def end(self, why: Refused) -> None:
        """Ends all its watchers."""
        self._ended = why
        self._wake_all()

    async def next(self, number: int) -> Sent:
        """The update of that number, when there is one. Raises Behind, or why the auction is watched no more."""
        while self.number <= number:
            if self._ended is not None:
                # One of its own for each: an exception keeps the traces of all that raise it.
                raise refusal(self._ended.reason, self._ended.facts)
            news = asyncio.get_running_loop().create_future()
            self._waiting[news] = None
            try:
                await news
            finally:
                self._waiting.pop(news, None)
        kept = number - (self.number - len(self._sent))
        if kept < 0:
            raise Behind
        return self._sent[kept]

    def _wake_all(self, then: Callable[[], None] = lambda: None) -> None:
        waiting, self._waiting = iter(self._waiting), {}
        self._wake(waiting, then)

    def _wake(self, waiting: Iterable[asyncio.Future[None]], then: Callable[[], None]) -> None:
        slice_ = list(islice(waiting, SLICE))
        for news in slice_:
            # A watcher that has gone is done.
            if not news.done():
                news.set_result(None)
        if slice_:
            asyncio.get_running_loop().call_soon(self._wake, waiting, then)
        else:
            then()
