"""Watchers at a process that stands by: fed from the log, also through outages and changes of leaders."""

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import pytest

from cells.domain.audit.refusals import EventDamaged
from cells.domain.refusals import Refused, Unavailable
from cells.log import subscriptions
from cells.log.subscriptions import Subscriptions
from cells.log.tail import LogTail
from cells.watch import feed as feeds
from tests.doubles.history import MemoryHistoryLookups
from tests.doubles.store import MemoryStore
from tests.integration.writer.feed_rig import Feed, Lot, Watcher, lot_of
from tests.local_cells import LocalCell, build_cell, leading, until

WATCHERS = 50


@pytest.fixture
async def elsewhere(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lot]:
    """An auction whose cell is led by one process, and whose feed is in another one."""
    monkeypatch.setattr(subscriptions, "POLL_S", 0.02)
    monkeypatch.setattr(feeds, "POLL_S", 0.02)
    store = MemoryStore("us-east")
    first, second = build_cell("us-east", store), build_cell("us-east", store)
    standing_by: asyncio.Task[None] | None = None
    try:
        async with leading(first):
            lot = await lot_of(first, store)
            lot.feed = Feed(second, MemoryHistoryLookups(store))
            standing_by = asyncio.create_task(second.run())
            yield lot
    finally:
        second.stop()
        if standing_by is not None:
            await standing_by


async def test_an_outage_is_waited_for(elsewhere: Lot, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader begins again where it was: watchers see nothing of it."""
    monkeypatch.setattr("cells.background.PAUSE_FIRST_S", 0.01)
    lot, log = elsewhere, elsewhere.feed.cell.subscriptions
    watcher = Watcher(lot)
    await until(lambda: log.tail.feeds_any)
    fail_reader(log, monkeypatch, Unavailable(problem="the database is away"))
    await lot.bid(5)
    await until(lambda: watcher.version == 6)
    assert watcher.is_gapless()
    await watcher.close()


async def test_a_damaged_log_ends_all_watchers(elsewhere: Lot, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reason. It is not used, and not waited for."""
    lot, log = elsewhere, elsewhere.feed.cell.subscriptions
    watchers = [Watcher(lot) for _ in range(3)]
    await until(lambda: all(watcher.updates for watcher in watchers))
    await until(lambda: log.tail.feeds_any)
    fail_reader(
        log,
        monkeypatch,
        EventDamaged(event_id="x", position=7, cell="us-east", problem="it is not as it was written"),
    )
    await lot.bid()
    for watcher in watchers:
        with pytest.raises(EventDamaged):
            await asyncio.wait_for(watcher.task, 10)
    assert not lot.feed._watched
    fresh = Watcher(lot)
    await until(lambda: fresh.version == lot.versions)
    await fresh.close()


def fail_reader(log: Subscriptions, monkeypatch: pytest.MonkeyPatch, error: Refused) -> None:
    """The reader that is there gets the error at the next event, once."""
    failures, page, take = [error], Subscriptions._page, LogTail.take

    async def failing(*arguments: object) -> object:
        if failures:
            raise failures.pop()
        return await page(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(LogTail, "take", lambda *arguments: None if failures else take(*arguments))
    monkeypatch.setattr(Subscriptions, "_page", failing)
    for reader in log._readers:
        reader.news.set()


async def test_a_standby_feeds_watchers_too(elsewhere: Lot) -> None:
    """From the log, read once for all; on when it leads itself, from its own commits; and from the log once more."""
    lot, feed = elsewhere, elsewhere.feed
    first, second = lot.cell, cast("LocalCell", feed.cell)
    watchers = [Watcher(lot) for _ in range(WATCHERS)]
    await until(lambda: all(watcher.updates for watcher in watchers))
    assert len(second.subscriptions._readers) == 1
    await lot.bid(10)
    await until(lambda: all(watcher.version == 11 for watcher in watchers))
    first.stop()
    await until(lambda: second.leading)
    lot.cell = second
    for count in range(1, 11):
        await lot.bid()
        await until(lambda: all(watcher.version == 11 + count for watcher in watchers))  # noqa: B023
    await until(lambda: feed._leads)
    await lot.bid(10)
    await until(lambda: all(watcher.version == 31 for watcher in watchers))
    # As if another one had led in between, whose events this process has not seen committed.
    feed._position -= 1
    await lot.bid(10)
    await until(lambda: all(watcher.version == 41 for watcher in watchers))
    assert all(watcher.is_gapless() for watcher in watchers)
    for watcher in watchers:
        await watcher.close()
