"""The rate of a queue, and which commands may still join it."""

import math

import pytest

from cells.writer.queue import PACE_KEPT_S, PACE_WINDOW_S, ThroughputEstimator

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
