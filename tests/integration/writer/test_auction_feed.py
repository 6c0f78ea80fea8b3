"""Watchers of auctions: one reader of the log feeds all of them, and none misses a change or gets it twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from itertools import pairwise
from uuid import UUID

import pytest

from cells.audit.checks.checked import Checked
from cells.domain.auction.auction import AuctionState
from cells.domain.audit.refusals import PositionNotReached
from cells.domain.commands import CancelAuction
from cells.domain.refusals import AuctionNotFound, Unavailable, WatcherTooSlow
from cells.watch import feed as feeds
from cells.watch import watched as watched_auctions
from cells.watch.changes import CHANGES_MAX, ChangeKind
from cells.watch.watched import WatchedAuction
from tests.doubles.history import MemoryHistoryLookups
from tests.integration.writer.feed_rig import Feed, Lot, Watcher, lot_of
from tests.local_cells import memory_cell, request, until

WATCHERS = 50


@pytest.fixture
async def lot() -> AsyncIterator[Lot]:
    async with memory_cell() as (cell, store):
        yield await lot_of(cell, store)


# --- live -------------------------------------------------------------------------------------------------------------


async def test_an_auction_is_watched_to_its_end(lot: Lot) -> None:
    """The state first, then each change with the state after it; the stream ends when the sale is settled."""
    watcher = Watcher(lot)
    await until(lambda: watcher.version == 1)
    assert watcher.updates[0].changes == ()
    await lot.bid(2)
    await until(lambda: watcher.version == 3)
    await lot.bid(by=lot.bidders.index(watcher.updates[-1].changes[-1].bid.bidder_id))  # type: ignore[union-attr]
    await until(lambda: watcher.version == 4)
    await lot.close()
    await asyncio.wait_for(watcher.task, 10)
    first, second, third, *rest = [change for update in watcher.updates for change in update.changes]
    assert (first.kind, first.outbid) == (ChangeKind.BID, None)
    assert second.outbid == first.bid
    assert third.outbid is None, "nobody outbids himself"
    assert [change.kind for change in rest] == [
        ChangeKind.CLOSED, ChangeKind.ESCROW, ChangeKind.ESCROW, ChangeKind.SETTLED,
    ]  # fmt: skip
    last = watcher.updates[-1].auction
    assert (last.state, last.highest_bid, last.bids_accepted) == (AuctionState.SETTLED, third.bid, 3)
    assert watcher.is_gapless()


@pytest.mark.parametrize("bids", [0, 1])
async def test_a_cancelled_auction_has_ended(lot: Lot, bids: int) -> None:
    """With bids or without. So has one that nobody bid in."""
    await lot.bid(bids)
    watcher = Watcher(lot)
    await until(lambda: watcher.updates)
    await lot.cell.execute(request(CancelAuction(auction_id=lot.auction_id)))
    await asyncio.wait_for(watcher.task, 10)
    assert watcher.updates[-1].changes[-1].kind is ChangeKind.CANCELLED


async def test_an_auction_that_has_ended_is_shown_and_no_more(lot: Lot) -> None:
    await lot.close()
    watcher = Watcher(lot)
    await asyncio.wait_for(watcher.task, 10)
    assert [update.auction.state for update in watcher.updates] == [AuctionState.UNSOLD]


async def test_an_update_is_made_once_for_all_its_watchers(lot: Lot, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: from the commits themselves, whatever they watch; the log is not read."""
    monkeypatch.setattr(feeds, "SENT_PER_S", 10_000)
    other = await lot_of(lot.cell, lot.store)
    watchers = [Watcher(lot) for _ in range(WATCHERS)]
    watchers += [Watcher(other, feed=lot.feed) for _ in range(WATCHERS)]
    await until(lambda: all(watcher.updates for watcher in watchers))
    assert lot.feed._leads
    assert not lot.cell.subscriptions._readers
    before = len(lot.feed.made)
    await lot.bid(5)
    await until(lambda: all(watcher.version == 6 for watcher in watchers[:WATCHERS]))
    assert len(lot.feed.made) - before <= 5
    assert all(watcher.is_gapless() and watcher.version == 1 for watcher in watchers[WATCHERS:])
    for watcher in watchers:
        await watcher.close()
    assert not lot.feed.background.running
    assert not lot.feed._watched
    assert lot.feed._watchers == 0


async def test_more_watchers_are_told_less_often(lot: Lot, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them together get so many updates a second: a storm of bids costs no more with more watchers."""
    monkeypatch.setattr(feeds, "GATHER_S", 0.0)
    monkeypatch.setattr(feeds, "SENT_PER_S", 200)
    watchers = [Watcher(lot) for _ in range(20)]
    await until(lambda: all(watcher.updates for watcher in watchers))
    began_s, sent = asyncio.get_running_loop().time(), -len(watchers)
    for _ in range(20):
        await lot.bid(10)
        await asyncio.sleep(0.01)
    await until(lambda: all(watcher.version == lot.versions for watcher in watchers))
    sent += sum(len(watcher.updates) for watcher in watchers)
    took_s = asyncio.get_running_loop().time() - began_s
    # One round of updates comes at once.
    assert sent <= len(watchers) + 200 * took_s
    assert lot.feed.gather_s == (20 + feeds.MAKING) / 200
    assert all(watcher.is_gapless() for watcher in watchers)
    for watcher in watchers:
        await watcher.close()


async def test_a_busy_process_sends_fewer_updates(lot: Lot) -> None:
    """Where sending one has taken long, other work has several times as long until the next one."""
    watcher = Watcher(lot)
    await until(lambda: watcher.updates)
    [watched] = lot.feed._watched.values()
    for took_s, pause_s in ((0.0, lot.feed.gather_s), (1.0, feeds.GATHER_TIMES)):
        began_s = asyncio.get_running_loop().time() - took_s
        lot.feed._sent(watched, began_s)
        assert -0.001 < watched.free_s - began_s - pause_s < 5.0
    await watcher.close()


async def test_each_change_of_a_storm_can_be_had(lot: Lot) -> None:
    """An update counts the changes that it leaves out. Watched from the position before it, they all come."""
    watcher = Watcher(lot)
    await until(lambda: watcher.updates)
    await lot.bid(3 * CHANGES_MAX)
    await until(lambda: watcher.version == lot.versions)
    assert len(watcher.changes) < 3 * CHANGES_MAX
    assert watcher.is_gapless()
    before = next(one for one, other in pairwise(watcher.updates) if other.left_out)
    again = Watcher(lot, before.position + 1)
    await until(lambda: again.version == lot.versions)
    assert again.changes == list(range(before.stream_version + 1, lot.versions + 1))
    for each in (watcher, again):
        await each.close()


# --- from a position --------------------------------------------------------------------------------------------------


async def test_a_watch_resumes_at_any_position(lot: Lot) -> None:
    """Of the whole log: what came before is in the state, and each change since comes once."""
    await lot.bid(70)
    await lot.close()
    await until(lambda: lot.rows[-1].event_type == "AUCTION_SETTLED")
    head = lot.cell.time.durable_position
    for position in range(1, head + 2):
        watcher = Watcher(lot, position)
        await asyncio.wait_for(watcher.task, 10)
        assert watcher.changes == [row.stream_version for row in lot.rows if row.position >= position], position
        assert watcher.is_gapless()
    with pytest.raises(PositionNotReached):
        await anext(lot.feed.watch(lot.auction_id, head + 2))


async def test_a_watch_reads_so_much_of_the_past_and_no_more(lot: Lot, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it is: what it leaves out is counted, and comes to whoever watches again from there."""
    monkeypatch.setattr(feeds, "PAGE", 8)
    monkeypatch.setattr(feeds, "CATCH_UP_MAX", 16)
    await lot.bid(100)
    position, changes, watches = 1, list[int](), 0
    while len(changes) < lot.versions:
        watcher = Watcher(lot, position)
        await until(lambda: watcher.version == lot.versions)  # noqa: B023
        await watcher.close()
        assert watcher.is_gapless()
        assert len(watcher.changes) <= 16 + CHANGES_MAX
        without_gap = [update for update in watcher.updates if not update.left_out]
        changes += [change.stream_version for update in without_gap for change in update.changes]
        position, watches = without_gap[-1].position + 1, watches + 1
    assert changes == list(range(1, lot.versions + 1))
    assert watches == -(-lot.versions // 16)


async def test_a_slow_watch_of_the_past_hears_of_the_end(lot: Lot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the sale is settled while the present is being sent to it, and no update follows."""
    monkeypatch.setattr(feeds, "PAGE", 8)
    monkeypatch.setattr(feeds, "CATCH_UP_MAX", 16)
    other = Watcher(lot)
    await until(lambda: other.updates)
    await lot.bid(100)
    await until(lambda: other.version == lot.versions)
    async with aclosing(lot.feed.updates(lot.auction_id, 1)) as updates, asyncio.timeout(10):
        async for update in updates:
            if update.left_out:
                break
        assert not update.ended
        await lot.close()
        await other.task
        assert [each.auction.state async for each in updates][-1] is AuctionState.SETTLED


async def test_whoever_breaks_off_and_resumes_misses_nothing(lot: Lot, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a storm of bids, from the table, from memory, and from the one to the other."""
    monkeypatch.setattr(feeds, "PAGE", 7)
    monkeypatch.setattr(feeds, "GATHER_S", 0.0)
    monkeypatch.setattr(feeds, "SENT_PER_S", 1_000_000)
    watchers = []
    for _ in range(20):
        watchers += [Watcher(lot, breaks=breaks) for breaks in (0.0, 0.2, 0.6)]
        watchers.append(Watcher(lot, 1, breaks=0.1))
        await lot.bid(15)
    await lot.close()
    await asyncio.wait_for(asyncio.gather(*(watcher.task for watcher in watchers)), 30)
    for watcher in watchers:
        # A watch that resumes begins with the state that it ended with.
        watcher.updates = [update for update in watcher.updates if update.changes] or watcher.updates
        assert watcher.is_gapless()
        assert watcher.version == lot.versions


async def test_what_happens_while_the_state_is_read_is_not_missed(lot: Lot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bids that are committed between the reading of the state and the first update come after it."""
    gate, reading = asyncio.Event(), asyncio.Event()

    class Slow(MemoryHistoryLookups):
        async def stream_from(
            self, aggregate_id: UUID, *, version: int, until: int, limit: int
        ) -> tuple[list[Checked], bool]:
            rows = await super().stream_from(aggregate_id, version=version, until=until, limit=limit)
            reading.set()
            await gate.wait()
            return rows

    feed = Feed(lot.cell, Slow(lot.store))
    watcher = Watcher(lot, feed=feed)
    await reading.wait()
    await lot.bid(3)
    gate.set()
    await until(lambda: watcher.version == 4)
    assert watcher.is_gapless()
    await watcher.close()

    # Ablation: without what came meanwhile, the next event does not follow.
    monkeypatch.setattr(watched_auctions, "EARLY_MAX", 0)
    gate.clear()
    reading.clear()
    watcher = Watcher(lot, feed=feed)
    await reading.wait()
    await lot.bid(3)
    gate.set()
    await until(lambda: watcher.updates)
    await lot.bid()
    with pytest.raises(Unavailable):
        await asyncio.wait_for(watcher.task, 10)


async def test_an_auction_that_is_not_there_is_not_watched(lot: Lot) -> None:
    with pytest.raises(AuctionNotFound):
        await anext(lot.feed.watch(lot.bidders[0], 0))
    assert not lot.feed._watched


# --- faults -----------------------------------------------------------------------------------------------------------


async def test_a_watcher_that_does_not_read_is_ended(lot: Lot, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told where to resume, and holds nothing meanwhile; those that read are not affected."""
    monkeypatch.setattr(watched_auctions, "UPDATES_MAX", 4)
    monkeypatch.setattr(feeds, "GATHER_S", 0.0)
    monkeypatch.setattr(feeds, "SENT_PER_S", 1_000_000)
    async with aclosing(lot.feed.updates(lot.auction_id)) as updates:
        await anext(updates)
        coming = asyncio.ensure_future(anext(updates))
        await lot.bid()
        first = await coming
        reading = Watcher(lot)
        await until(lambda: reading.updates)
        [watched] = lot.feed._watched.values()
        for _ in range(6):
            await lot.bid()
            await until(lambda: reading.version == lot.versions)
        assert len(watched._sent) == 4
        with pytest.raises(WatcherTooSlow) as refused:
            await anext(updates)
    assert refused.value.facts == {"auction_id": str(lot.auction_id), "next_position": first.position + 1}
    resumed = Watcher(lot, first.position + 1)
    await until(lambda: resumed.version == lot.versions)
    assert resumed.changes == list(range(first.stream_version + 1, lot.versions + 1))
    for each in (reading, resumed):
        await each.close()


# --- one auction ------------------------------------------------------------------------------------------------------


async def test_other_calls_are_served_while_watchers_are_woken(lot: Lot) -> None:
    """They are woken slice by slice; one whose watcher has gone is forgotten at once, not at the next update."""
    watched = WatchedAuction(auction_id=lot.auction_id)
    tasks = [asyncio.create_task(watched.next(0)) for _ in range(3 * watched_auctions.SLICE)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.wait([tasks[0]])
    assert len(watched._waiting) == len(tasks) - 1
    async with aclosing(lot.feed.updates(lot.auction_id)) as updates:
        sent: list[bool] = []
        watched.publish(await anext(updates), b"update", lambda: sent.append(all(task.done() for task in tasks)))
    turns = 0
    while not all(task.done() for task in tasks):
        before = sum(task.done() for task in tasks)
        await asyncio.sleep(0)
        turns += 1
        assert sum(task.done() for task in tasks) - before <= watched_auctions.SLICE
    assert turns >= 3
    await until(lambda: sent)
    assert not watched._waiting
