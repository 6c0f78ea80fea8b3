"""Combining requests into one call: together if they are made together, and without delay."""

import asyncio
import math
from collections.abc import Sequence

import pytest

from server.shell.coalescer import WAITING_MAX, Coalescer
from tests.local_cells import until


class Peer:
    """Answers with twice the number; refuses negative ones."""

    def __init__(self, items_max: int = 100, calls_max: float = math.inf) -> None:
        self.calls: list[list[int]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.coalescer = Coalescer(send=self.send, busy=OverflowError, items_max=items_max, calls_max=calls_max)

    async def send(self, items: Sequence[int]) -> Sequence[int | Exception]:
        self.calls.append(list(items))
        await self.open.wait()
        return [2 * item if item >= 0 else ValueError(item) for item in items]


async def test_what_is_asked_together_goes_together() -> None:
    """One call for all that are ready at the moment, each with its own answer."""
    peer = Peer()
    assert await asyncio.gather(*map(peer.coalescer.ask, range(50))) == [2 * item for item in range(50)]
    assert peer.calls == [list(range(50))]


async def test_no_call_has_more_than_its_most() -> None:
    """The rest is sent at the same time, in further calls."""
    peer = Peer(items_max=20)
    await asyncio.gather(*map(peer.coalescer.ask, range(50)))
    assert [len(call) for call in peer.calls] == [20, 20, 10]


async def test_nothing_waits_for_a_call_that_is_out() -> None:
    """A later request is sent at once, while the first has no answer yet."""
    peer = Peer()
    peer.open.clear()
    first = asyncio.create_task(peer.coalescer.ask(1))
    await until(lambda: len(peer.calls) == 1)
    second = asyncio.create_task(peer.coalescer.ask(2))
    await until(lambda: len(peer.calls) == 2)
    assert not first.done()
    peer.open.set()
    assert [await first, await second] == [2, 4]


async def test_one_that_is_refused_is_alone_with_it() -> None:
    """The others have their answers."""
    peer = Peer()
    answers = await asyncio.gather(*map(peer.coalescer.ask, (1, -1, 2)), return_exceptions=True)
    assert (answers[0], answers[2]) == (2, 4)
    assert isinstance(answers[1], ValueError)


@pytest.mark.parametrize("problem", ["raises", "answers too few"])
async def test_a_call_that_fails_is_told_to_all(problem: str) -> None:
    """Every caller gets the error."""

    async def send(items: Sequence[int]) -> Sequence[int | Exception]:
        if problem == "raises":
            raise OSError("broken")
        return []

    coalescer = Coalescer(send=send, busy=OverflowError, items_max=10)
    answers = await asyncio.gather(*map(coalescer.ask, range(3)), return_exceptions=True)
    assert all(isinstance(answer, OSError | ValueError) for answer in answers)


async def test_one_that_goes_away_takes_nobody_along() -> None:
    """The other requests in the call still get their answers."""
    peer = Peer()
    peer.open.clear()
    gone, stays = (asyncio.create_task(peer.coalescer.ask(item)) for item in (1, 2))
    await until(lambda: peer.calls)
    gone.cancel()
    await asyncio.wait([gone])
    peer.open.set()
    assert await stays == 4
    assert peer.calls == [[1, 2]]


async def test_nobody_waits_for_a_coalescer_that_is_closed() -> None:
    """All open requests are given up."""
    peer = Peer()
    peer.open.clear()
    asked = asyncio.create_task(peer.coalescer.ask(1))
    await until(lambda: peer.calls)
    peer.coalescer.close()
    await asyncio.wait([asked])
    assert asked.cancelled()


async def test_what_waits_for_a_call_goes_together_in_the_next() -> None:
    """With one call at a time, requests made meanwhile share the next one; those given up before it are not sent."""
    peer = Peer(calls_max=1)
    peer.open.clear()
    first = asyncio.create_task(peer.coalescer.ask(1))
    await until(lambda: peer.calls)
    rest = [asyncio.create_task(peer.coalescer.ask(item)) for item in (2, 3, 4)]
    await asyncio.sleep(0)
    rest[1].cancel()
    peer.open.set()
    assert [*await asyncio.gather(first, rest[0], rest[2])] == [2, 4, 8]
    assert peer.calls == [[1], [2, 4]]


async def test_only_so_many_wait() -> None:
    """The next one is refused, and the others are given up when it is closed."""
    peer = Peer(calls_max=1)
    peer.open.clear()
    asked = [asyncio.create_task(peer.coalescer.ask(0))]
    await until(lambda: peer.calls)
    asked += [asyncio.create_task(peer.coalescer.ask(item)) for item in range(WAITING_MAX)]
    await asyncio.sleep(0)
    with pytest.raises(OverflowError):
        await peer.coalescer.ask(1)
    peer.coalescer.close()
    assert len(await asyncio.gather(*asked, return_exceptions=True)) == WAITING_MAX + 1
    assert all(task.cancelled() for task in asked)
