"""Subscribers are fed from memory, from the table while they catch up, and miss nothing on the way between the two."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from uuid import UUID

import pytest

from cells.cell import Cell
from cells.domain.audit.refusals import PositionNotReached
from cells.log import subscriptions
from cells.log import tail as log_tail
from cells.requests import CaughtUp, Progress
from cells.store.ports import EVERYTHING, EventFilter, EventRow
from tests.doubles.store import MemoryStore
from tests.local_cells import build_cell, deposit, leading, memory_cell, open_user, request, until

SUBSCRIBERS = 50
Item = EventRow | CaughtUp | Progress


class CountedStore(MemoryStore):
    """Counts what is asked of the table of events, and how many positions a question spans at most."""

    def __init__(self, cell: str) -> None:
        super().__init__(cell)
        self.asked = self.heads = 0
        self.span = 0

    async def events(
        self, *, from_position: int, until_position: int = 2**63 - 1, limit: int, event_filter: EventFilter = EVERYTHING
    ) -> list[EventRow]:
        self.asked += 1
        self.span = max(self.span, min(until_position, len(self.log)) - from_position + 1)
        return await super().events(
            from_position=from_position, until_position=until_position, limit=limit, event_filter=event_filter
        )


@pytest.fixture
async def store() -> CountedStore:
    return CountedStore("us-east")


@pytest.fixture
async def cell(store: CountedStore) -> AsyncIterator[Cell]:
    cell = build_cell("us-east", store)
    async with leading(cell):
        yield cell


class Follower:
    """Reads on until it is closed; `slow` gives way now and then, as a client that takes its time."""

    def __init__(self, cell: Cell, wanted: EventFilter, *, from_position: int = 1, slow: float = 0.0) -> None:
        self.wanted = wanted
        self.items: list[Item] = []
        self._slow = slow
        self._random = random.Random(from_position)
        self._task = asyncio.create_task(self._follow(cell, from_position))

    async def _follow(self, cell: Cell, from_position: int) -> None:
        async with aclosing(cell.subscribe(from_position=from_position, event_filter=self.wanted)) as items:
            async for item in items:
                self.items.append(item)
                if self._random.random() < self._slow:
                    await asyncio.sleep(0.002)

    @property
    def positions(self) -> list[int]:
        return [item.position for item in self.items if isinstance(item, EventRow)]

    @property
    def is_live(self) -> bool:
        return any(isinstance(item, CaughtUp) for item in self.items)

    def has_all_of(self, store: MemoryStore) -> bool:
        return self.positions == [row.position for row in store.log if self.wanted.lets(row)]

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


async def deposits(cell: Cell, user_id: UUID, count: int) -> None:
    await asyncio.gather(*(cell.execute(request(deposit(user_id))) for _ in range(count)))


async def test_an_empty_log_is_caught_up_with_at_once(cell: Cell, store: CountedStore) -> None:
    """Its end is position 0, and the table is not asked for it again and again."""
    follower = Follower(cell, EVERYTHING)
    await until(lambda: follower.is_live)
    asked = store.asked
    await asyncio.sleep(0.05)
    assert store.asked == asked
    await open_user(cell)
    await until(lambda: follower.has_all_of(store))
    await follower.close()


async def test_whoever_has_caught_up_reads_no_table(cell: Cell, store: CountedStore) -> None:
    """However many they are, and whatever they filter by: a commit is handed on from memory."""
    ann, ben = await open_user(cell), await open_user(cell)
    kinds = [
        EVERYTHING,
        EventFilter(user_id=ben),
        EventFilter(aggregate_id=ann),
        EventFilter(event_types=("DEPOSITED",)),
        EventFilter(aggregate_id=ann, event_types=("WITHDRAWN",)),
    ]
    followers = [Follower(cell, kinds[number % len(kinds)]) for number in range(SUBSCRIBERS)]
    await until(lambda: all(each.is_live for each in followers))
    before = store.asked
    await deposits(cell, ann, 100)
    await until(lambda: all(each.has_all_of(store) for each in followers))
    assert store.asked == before
    for each in followers:
        await each.close()


async def test_the_slow_and_the_fast_miss_nothing(
    cell: Cell, store: CountedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that falls out of what is kept in memory catches up from the table again: no gap, nothing twice."""
    monkeypatch.setattr(subscriptions, "POSITIONS_MAX", 7)
    monkeypatch.setattr(subscriptions, "PAGE", 3)
    cell.subscriptions.tail.events_max = 8
    ann, ben = await open_user(cell), await open_user(cell)
    kinds = [EVERYTHING, EventFilter(aggregate_id=ben), EventFilter(event_types=("DEPOSITED", "ACCOUNT_OPENED"))]
    followers: list[Follower] = []
    for _ in range(20):
        followers += [Follower(cell, wanted, slow=slow) for wanted, slow in zip(kinds, (0.3, 0.0, 0.9), strict=True)]
        await deposits(cell, ann, 9)
        await deposits(cell, ben, 1)
    await until(lambda: all(each.has_all_of(store) for each in followers))
    for each in followers:
        await each.close()


async def test_a_sparse_filter_is_looked_for_page_by_page_and_tells_how_far_it_is(
    cell: Cell, store: CountedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No question spans more than a bound, though none of its events is wanted, and progress is told meanwhile."""
    ann = await open_user(cell)
    await deposits(cell, ann, 100)
    monkeypatch.setattr(subscriptions, "POSITIONS_MAX", 10)
    monkeypatch.setattr(subscriptions, "PROGRESS_S", 0.0)
    follower = Follower(cell, EventFilter(event_types=("BID_PLACED",)))
    await until(lambda: follower.is_live)
    told = [item.position for item in follower.items if isinstance(item, Progress)]
    assert told[:10] == list(range(10, 101, 10))
    assert store.span == 10
    await follower.close()


async def test_whoever_hears_nothing_hears_so(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A live subscriber, too, is told from where to go on, and need not look through all again."""
    monkeypatch.setattr(subscriptions, "PROGRESS_S", 0.01)
    ann = await open_user(cell)
    follower = Follower(cell, EventFilter(event_types=("BID_PLACED",)))
    await until(lambda: follower.is_live)
    await deposits(cell, ann, 5)
    await until(lambda: follower.items[-1] == Progress(cell.time.durable_position))
    await follower.close()


async def test_a_standby_reads_the_table_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its subscribers follow another process's commits; when it leads itself they go on without a gap."""
    monkeypatch.setattr(subscriptions, "POLL_S", 0.02)
    store = CountedStore("us-east")
    first, second = build_cell("us-east", store), build_cell("us-east", store)
    async with leading(first):
        ann = await open_user(first)
        standing_by = asyncio.create_task(second.run())
        followers = [Follower(second, EventFilter(aggregate_id=ann)) for _ in range(SUBSCRIBERS)]
        await until(lambda: all(each.is_live for each in followers))
        before = store.asked
        await deposits(first, ann, 10)
        await until(lambda: all(each.has_all_of(store) for each in followers))
        assert store.asked - before < SUBSCRIBERS
    await until(lambda: second.leading)
    await deposits(second, ann, 10)
    await until(lambda: all(each.has_all_of(store) for each in followers))
    for each in followers:
        await each.close()
    second.stop()
    await standing_by


async def test_nobody_listening_costs_nothing() -> None:
    """Events are kept while somebody reads, and nothing runs when the last one has gone."""
    async with memory_cell() as (cell, _):
        ann = await open_user(cell)
        log = cell.subscriptions
        follower = Follower(cell, EVERYTHING)
        await until(lambda: follower.is_live)
        await deposits(cell, ann, 3)
        polling = log.background._task
        await follower.close()
        await deposits(cell, ann, 3)
        assert polling is not None
        await until(polling.done)
        assert not log.tail.feeds_any
        assert not log.behind


async def test_what_is_kept_is_bounded(cell: Cell) -> None:
    """Also while a subscriber does not read at all: it is let go, and takes the table later."""
    tail = cell.subscriptions.tail
    tail.events_max = 16
    assert log_tail.EVENTS_MAX > 16
    ann = await open_user(cell)
    async with aclosing(cell.subscribe(from_position=1, event_filter=EventFilter(aggregate_id=ann))) as items:
        while not isinstance(await anext(items), CaughtUp):
            pass
        await deposits(cell, ann, 100)
        (reader,) = cell.subscriptions._readers
        assert len(tail._rows) == 16
        assert len(reader.matches) <= 16
        for position in range(2, 102):
            item = await anext(items)
            assert isinstance(item, EventRow)
            assert item.position == position


async def test_nobody_is_told_to_have_caught_up_beyond_the_end(cell: Cell) -> None:
    """The next position is waited for; one further on is of another log, or this one has lost data."""
    await deposits(cell, await open_user(cell), 3)
    head = cell.time.durable_position
    follower = Follower(cell, EVERYTHING, from_position=head + 1)
    await until(lambda: follower.is_live)
    await follower.close()
    with pytest.raises(PositionNotReached) as refused:
        await anext(cell.subscribe(from_position=head + 2, event_filter=EVERYTHING))
    assert refused.value.facts == {"cell": "us-east", "head": head, "next": head + 1, "position": head + 2}
