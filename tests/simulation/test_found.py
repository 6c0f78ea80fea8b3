"""Bugs that the simulation has found, each as a short run of its own."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TypeVar
from uuid import uuid4

import pytest

from cells.domain.auction.auction import AuctionState
from cells.domain.commands import Transfer
from cells.domain.refusals import ClockAtBound, InsufficientFunds, Unavailable, UserNotFound
from cells.domain.time.hlc import LOGICAL_MAX, Stamp
from cells.domain.values import Money
from cells.store.ports import Batch, StoreUnavailable
from cells.writer.writer import HLC_AHEAD_MS
from tests.doubles.store import Fault, MemoryStore
from tests.local_cells import LocalCell, build_cell, deposit, memory_cell, open_auction, open_user, request
from tests.simulation.loop import VirtualClock, VirtualLoop, virtual_loop

HOUR_S = 3_600

Made = TypeVar("Made")


class Wavering(MemoryStore):
    """A database that becomes unreachable."""

    away = False

    async def append(self, batch: Batch) -> None:
        if self.away:
            raise StoreUnavailable("nobody answers")
        await super().append(batch)


def in_virtual_time(story: Callable[[], Coroutine[None, None, Made]]) -> Made:
    loop = virtual_loop(random.Random(0))
    try:
        return loop.run_until_complete(story())
    finally:
        loop.close()


@asynccontextmanager
async def leading(store: MemoryStore) -> AsyncIterator[LocalCell]:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    cell = build_cell("us-east", store, clock=VirtualClock(loop))
    running = loop.world.start(cell.run())
    await asyncio.sleep(1)
    yield cell
    cell.stop()
    await running


def test_a_timer_that_fires_by_a_wrong_clock_fires_again_by_the_right_one() -> None:
    """It fired an hour early and was refused: it must not fire an hour late."""

    async def story() -> AuctionState:
        async with leading(MemoryStore("us-east")) as cell:
            auction_id = await open_auction(cell, await open_user(cell))
            await asyncio.sleep(HOUR_S - 100)
            clock = cell.time.clock
            assert isinstance(clock, VirtualClock)
            clock.offset_ms = HOUR_S * 1_000
            await asyncio.sleep(70)
            clock.offset_ms = 0
            await asyncio.sleep(60)
            return (await cell.auction(auction_id)).state.state

    assert in_virtual_time(story) is AuctionState.UNSOLD


async def ahead_of_world_ms() -> tuple[int, int]:
    """How far a leader's stamps and promise are ahead after a minute with a clock that is an hour ahead."""
    store = MemoryStore("us-east")
    async with leading(store) as cell:
        clock = cell.time.clock
        assert isinstance(clock, VirtualClock)
        clock.offset_ms = HOUR_S * 1_000
        for _ in range(600):
            await asyncio.sleep(0.1)
            # As with each call to a peer.
            cell.time.stamp()
        clock.offset_ms = 0
        now_ms, head = clock.wall_ms(), await store.head()
        return cell.time.hlc.last.physical_ms - now_ms, head.hlc_bound_ms - now_ms


def test_nothing_is_promised_by_a_clock_that_has_jumped() -> None:
    """The leader keeps beating: a successor would wait for the promised time, and peers would refuse its stamps."""
    stamp_ms, bound_ms = in_virtual_time(ahead_of_world_ms)
    assert stamp_ms <= 0
    assert bound_ms <= HLC_AHEAD_MS


def test_by_the_clock_as_it_is_an_hour_would_be_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablation: stamps and promises follow the wall clock, and do not come back when it is corrected."""
    monkeypatch.setattr("cells.time.celltime.CellTime.steady_ms", lambda self: self.clock.wall_ms())
    assert min(in_virtual_time(ahead_of_world_ms)) > (HOUR_S - 1) * 1_000


def test_an_auction_that_ends_while_no_commit_succeeds_is_closed_all_the_same() -> None:
    """A batch's time then stands still: the timer fires too early, and must fire again."""

    async def story() -> AuctionState:
        store = Wavering("us-east")
        async with leading(store) as cell:
            auction_id = await open_auction(cell, await open_user(cell))
            await asyncio.sleep(HOUR_S - 10)
            store.away = True
            await asyncio.sleep(20)
            # A peer's message moves the clock, but not the time of decisions.
            cell.time.observe(Stamp(cell.time.clock.wall_ms(), 0), {}, peer="eu-west")
            await asyncio.sleep(20)
            store.away = False
            await asyncio.sleep(20)
            return (await cell.auction(auction_id)).state.state

    assert in_virtual_time(story) is AuctionState.UNSOLD


async def test_a_refusal_whose_commit_is_unknown_is_unknown() -> None:
    """It moves no position that would prove it. If it counted as final, the command could still execute later."""
    async with memory_cell() as (cell, store):
        ann, ben = await open_user(cell), await open_user(cell)
        too_much = request(Transfer(from_user_id=ann, to_user_id=ben, amount=Money("USD", 100)))
        store.fail_next(Fault.NOT_COMMITTED, Fault.COMMITTED)
        for _ in range(2):
            with pytest.raises(Unavailable):
                await cell.execute(too_much)
        await cell.execute(request(deposit(ann, 100)))
        with pytest.raises(InsufficientFunds):
            await cell.execute(too_much)


def test_a_command_is_recorded_whole_or_not_at_all() -> None:
    """The last promised stamp goes to the first of a transfer's two events: neither is kept."""

    async def story() -> list[str]:
        store = MemoryStore("us-east")
        async with leading(store) as cell:
            ann, ben = await open_user(cell, 100), await open_user(cell)
            transfer = request(Transfer(from_user_id=ann, to_user_id=ben, amount=Money("USD", 60)))
            # One stamp for the batch's time, one for the money sent, and none for the money received.
            cell.time.hlc.last = Stamp(cell.time.hlc.bound_ms - 1, LOGICAL_MAX - 2)
            with pytest.raises(ClockAtBound):
                await cell.execute(transfer)
            await asyncio.sleep(2)
            await cell.execute(transfer)
            return [row.event_type for row in store.log if row.event_type.startswith("TRANSFER")]

    assert in_virtual_time(story) == ["TRANSFER_SENT", "TRANSFER_RECEIVED"]


def test_answers_that_need_no_row_keep_no_beat_back() -> None:
    """A stream of such answers, each before the next beat is due: the leader is still seen to lead."""

    async def story() -> tuple[int, int]:
        store = MemoryStore("us-east")
        async with leading(store) as cell:
            before = await store.head()
            for _ in range(50):
                with pytest.raises(UserNotFound):
                    await cell.execute(request(deposit(uuid4())))
                await asyncio.sleep(0.1)
            after = await store.head()
            return after.beat - before.beat, after.hlc_bound_ms - before.hlc_bound_ms

    beats, passed_ms = in_virtual_time(story)
    assert beats >= 10
    assert passed_ms >= 4_000
