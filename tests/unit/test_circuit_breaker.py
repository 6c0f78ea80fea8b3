"""The circuit breaker of a peer: bounded calls while it answers, one at a time while it is silent, then all at once."""

import asyncio
import math
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

import pytest

from cells.domain.refusals import AuctionNotFound
from cells.sagas import circuit_breaker
from cells.sagas.circuit_breaker import CALLS_MAX, SILENT_AFTER, CircuitBreaker, PeerSilent
from cells.store.ports import PeerUnknown
from tests.local_cells import until


class Peer:
    """Answers, or not; records the number of calls, and of concurrent calls."""

    def __init__(self) -> None:
        self.breaker = CircuitBreaker(random=random.Random(1))
        self.answers = True
        self.refuses = False
        self.hangs = False
        self.calls = 0
        self.at_once = self.most_at_once = 0

    async def asked(self, patience_s: float = math.inf) -> None:
        async with self.breaker.call(patience_s):
            self.calls += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            try:
                await asyncio.sleep(0.001)
                while self.hangs:  # noqa: ASYNC110 - the test sets it
                    await asyncio.sleep(0.001)
            finally:
                self.at_once -= 1
            if self.refuses:
                raise AuctionNotFound(auction_id="1", cell="eu-west")
            if not self.answers:
                raise PeerUnknown("cut off")

    async def insisted(self) -> None:
        """As a saga does."""
        while True:
            try:
                return await self.asked()
            except PeerUnknown:
                await asyncio.sleep(0)

    async def falls_silent(self) -> None:
        self.answers = False
        for _ in range(SILENT_AFTER):
            with pytest.raises(PeerUnknown):
                await self.asked()
        assert self.breaker.silent


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_breaker, "PROBE_FIRST_S", 0.01)
    monkeypatch.setattr(circuit_breaker, "PROBE_MAX_S", 0.02)


@asynccontextmanager
async def many(count: int, work: Callable[[], Coroutine[None, None, None]]) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [asyncio.create_task(work()) for _ in range(count)]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_calls_to_a_peer_that_answers_are_bounded() -> None:
    """Ten thousand want to call; never more than the limit do at once, and all do in the end."""
    peer = Peer()
    async with many(10_000, peer.asked) as tasks:
        await asyncio.gather(*tasks)
    assert peer.calls == 10_000
    assert peer.most_at_once == CALLS_MAX


async def test_one_at_a_time_asks_after_a_silent_peer() -> None:
    """However many wait, they wait without calls, and each failed probe lets the next one try."""
    peer = Peer()
    await peer.falls_silent()
    peer.most_at_once = 0
    async with many(1_000, peer.insisted):
        await until(lambda: peer.calls >= SILENT_AFTER + 5)
        assert peer.most_at_once == 1


async def test_the_first_answer_lets_all_go_on() -> None:
    """One answer releases a thousand waiting sagas, without a probe for each."""
    peer = Peer()
    await peer.falls_silent()
    async with many(1_000, peer.insisted) as tasks:
        await until(lambda: peer.calls > SILENT_AFTER)
        peer.answers = True
        await asyncio.wait_for(asyncio.gather(*tasks), 10)
    assert not peer.breaker.silent
    assert peer.most_at_once > 1


async def test_a_refusal_is_an_answer() -> None:
    """A peer that refuses is there: all waiting sagas continue."""
    peer = Peer()
    await peer.falls_silent()
    peer.refuses = True
    with pytest.raises(AuctionNotFound):
        await peer.asked()
    assert not peer.breaker.silent


async def test_one_lost_reply_is_no_silence() -> None:
    """Failures between answers do not add up."""
    peer = Peer()
    for _ in range(3 * SILENT_AFTER):
        peer.answers = False
        with pytest.raises(PeerUnknown):
            await peer.asked()
        peer.answers = True
        await peer.asked()
    assert not peer.breaker.silent


async def test_patience_ends_a_wait_for_a_turn() -> None:
    """A saga whose deadline passes is told, without a call; its turn is not lost to the others."""
    peer = Peer()
    await peer.falls_silent()
    async with many(3, lambda: peer.asked(0.001)) as tasks:
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert any(isinstance(end, PeerSilent) for end in ends)
    peer.answers = True
    await asyncio.wait_for(peer.asked(), 10)


async def test_a_cancelled_probe_passes_its_turn_on() -> None:
    """A saga that is stopped during its probe, or just before it, leaves the turn to the next one."""
    peer = Peer()
    await peer.falls_silent()
    peer.answers, peer.hangs = True, True
    async with many(2, peer.asked) as (first, second):
        await until(lambda: peer.at_once)
        assert peer.at_once == 1
        first.cancel()
        await asyncio.wait([first])
        peer.hangs = False
        await asyncio.wait_for(second, 10)


async def test_those_that_queued_for_a_slot_do_not_call_a_peer_that_fell_silent() -> None:
    """Otherwise the whole queue would be sent to a silent peer, each call for its whole timeout."""
    peer = Peer()
    peer.answers, peer.hangs = False, True
    async with many(3 * CALLS_MAX, peer.insisted):
        await until(lambda: peer.at_once == CALLS_MAX)
        peer.hangs = False
        await until(lambda: peer.at_once <= 1)
        assert peer.calls <= CALLS_MAX + 1


async def test_without_the_breaker_a_silent_peer_takes_every_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablation: if no number of failures counted as silence, all waiting sagas would call, again and again."""
    monkeypatch.setattr(circuit_breaker, "SILENT_AFTER", 10**9)
    peer = Peer()
    peer.answers = False
    async with many(1_000, peer.insisted):
        await until(lambda: peer.calls > 2_000)
        assert peer.most_at_once == CALLS_MAX
