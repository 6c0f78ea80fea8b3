"""Principals take turns in the queue, within limits per principal and in total."""

import math
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cells.domain.commands import OpenAccount
from cells.domain.record import replace
from cells.domain.refusals import QueueFull
from cells.requests import Lane
from cells.writer.queue import PACE_KEPT_S, PACE_WINDOW_S, TOTAL_FACTOR, CommandQueue, Pending, ThroughputEstimator
from tests.local_cells import request


def pending(principal: str, *, lane: Lane = Lane.CLIENT, size_bytes: int = 100) -> Pending:
    command = OpenAccount(user_id=uuid4(), home_epoch=1)
    return Pending(request=replace(request(command, lane=lane, size_bytes=size_bytes), principal=principal), waiters=[])


def put(queue: CommandQueue, principal: str, commands: int) -> list[Pending]:
    pendings = [pending(principal) for _ in range(commands)]
    queue.put_all(pendings)
    return pendings


def principals(pendings: list[Pending]) -> str:
    return "".join(each.request.principal for each in pendings)


def test_principals_take_turns_a_command_each() -> None:
    """A principal that has sent much waits behind one that has sent little; urgent commands go before all."""
    queue = CommandQueue()
    first = put(queue, "a", 5)
    put(queue, "b", 2)
    put(queue, "c", 1)
    queue.put(pending("u", lane=Lane.URGENT))
    assert principals(queue.take(6, 0.0)) == "uabcab"
    assert len(queue) == 3
    assert queue.take(10, 0.0) == first[2:]
    assert (len(queue), queue._bytes) == (0, 0)


def test_what_is_put_back_goes_first_in_its_order() -> None:
    """Each principal's commands stay in the order in which they arrived."""
    queue = CommandQueue()
    of = {name: put(queue, name, 4) for name in "ab"}
    taken = queue.take(5, 0.0)
    queue.put_back(taken)
    again = queue.take(8, 0.0)
    assert {name: [each for each in again if each.request.principal == name] for name in "ab"} == of


@given(st.lists(st.one_of(st.sampled_from("abcd"), st.integers(1, 9)), max_size=60))
def test_nothing_is_lost_and_nobody_is_overtaken_by_himself(steps: list[str | int]) -> None:
    """A letter sends a command; a number takes that many, and every other time puts all of them back."""
    queue, sent, done = CommandQueue(), list[Pending](), list[Pending]()
    for number, step in enumerate(steps):
        if isinstance(step, str):
            sent += put(queue, step, 1)
            continue
        taken = queue.take(step, 0.0)
        if number % 2:
            queue.put_back(taken)
        else:
            done += taken
    done += queue.take(len(queue), 0.0)
    for name in "abcd":
        assert [each for each in done if each.request.principal == name] == [
            each for each in sent if each.request.principal == name
        ]
    assert (len(queue), queue._bytes, queue._commands, len(queue._turns)) == (0, 0, 0, 0)


def test_one_that_is_alone_may_have_all_the_room() -> None:
    """As many commands as before there were others, and not one more."""
    queue = CommandQueue(commands_max=10)
    put(queue, "a", 10)
    with pytest.raises(QueueFull):
        queue.put(pending("a"))


def test_a_full_backlog_turns_nobody_else_away() -> None:
    """Latecomers get their share, and a principal with more than its share waits until it is down to it."""
    queue = CommandQueue(commands_max=12)
    put(queue, "a", 12)
    for name in "bcd":
        put(queue, name, 3)
        with pytest.raises(QueueFull, match="12 of your commands"):
            queue.put(pending("a"))
    put(queue, "b", 1)
    with pytest.raises(QueueFull, match="4 of your commands"):
        queue.put(pending("b"))
    queue.take(20, 0.0)
    put(queue, "a", 4)


def test_the_share_is_one_of_the_wait_too() -> None:
    """The commands that a slow cell handles within the maximum wait are shared equally."""
    queue = CommandQueue(commands_always=4)
    queue.throughput.per_s = 1.0
    put(queue, "a", 5)
    with pytest.raises(QueueFull):
        queue.put(pending("a"))
    put(queue, "b", 1)
    put(queue, "b", 1)


def test_bytes_are_shared_alike() -> None:
    """A few large commands of one principal leave room for others."""
    queue = CommandQueue(bytes_max=1_000)
    for _ in range(10):
        queue.put(pending("a"))
    with pytest.raises(QueueFull):
        queue.put(pending("a"))
    queue.put(pending("b", size_bytes=600))
    with pytest.raises(QueueFull):
        queue.put(pending("b", size_bytes=600))


def test_all_together_have_a_bound() -> None:
    """However many principals there are."""
    queue = CommandQueue(commands_max=10)
    for number in range(TOTAL_FACTOR):
        put(queue, str(number), 10)
    with pytest.raises(QueueFull):
        put(queue, "late", 1)


# --- the rate of a queue, and which commands may still join it --------------------------------------------------------


STEP_S = PACE_WINDOW_S / 2


def take(throughput: ThroughputEstimator, now_s: float, *, seconds: float, per_s: float) -> float:
    """Takes at that rate while there are always more; returns the time at the end."""
    for _ in range(int(seconds / STEP_S)):
        now_s += STEP_S
        throughput.took(int(per_s * STEP_S), now_s, more=True)
    return now_s


def test_the_pace_is_not_known_before_the_queue_was_busy() -> None:
    """Takes that empty the queue show how fast commands arrive, not how fast they can be processed."""
    throughput = ThroughputEstimator()
    for number in range(100):
        throughput.took(10, number * 0.1, more=False)
    assert throughput.per_s == math.inf


@pytest.mark.parametrize("per_s", [100, 20_000])
def test_the_pace_follows_what_is_taken(per_s: int) -> None:
    """It settles at the rate, whatever it was before."""
    throughput = ThroughputEstimator()
    now_s = take(throughput, 0.0, seconds=3.0, per_s=1_000)
    assert throughput.per_s == pytest.approx(1_000, rel=0.05)
    take(throughput, now_s, seconds=5.0, per_s=per_s)
    assert throughput.per_s == pytest.approx(per_s, rel=0.05)


def test_idle_time_does_not_count() -> None:
    """A queue that was empty in between was not slow."""
    throughput = ThroughputEstimator()
    now_s = take(throughput, 0.0, seconds=2.0, per_s=1_000)
    throughput.took(0, now_s, more=False)
    take(throughput, now_s + PACE_KEPT_S / 2, seconds=1.0, per_s=1_000)
    assert throughput.per_s == pytest.approx(1_000, rel=0.05)


def test_an_old_pace_is_forgotten() -> None:
    """A slow period some time ago causes no rejections now."""
    throughput = ThroughputEstimator()
    now_s = take(throughput, 0.0, seconds=2.0, per_s=10)
    throughput.took(0, now_s, more=False)
    throughput.took(10, now_s + 2 * PACE_KEPT_S, more=True)
    assert throughput.per_s == math.inf
