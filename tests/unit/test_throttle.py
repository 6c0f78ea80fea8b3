"""The rate of calls: as the caller's bucket allows, independent of other callers."""

import pytest

from cells.buckets import Buckets
from server.shell.calls.denials import RateExceeded
from server.shell.calls.limits import BURST_S, Throttle
from server.shell.identity.principal import Principal, Role

ANN, BEN = (Principal(role=Role.USER, name=name) for name in ("ann", "ben"))
SHOP = Principal(role=Role.SERVICE, name="shop")


class Clock:
    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def taken(throttle: Throttle, principal: Principal, calls: int) -> int:
    """The number of `calls` admitted at this moment."""
    through = 0
    for _ in range(calls):
        try:
            throttle.check(principal)
        except RateExceeded:
            continue
        through += 1
    return through


def test_a_bucket_empties_and_fills_at_its_rate(clock: Clock) -> None:
    """A burst at once, then the rate; unused allowance is kept, but no more than the bucket holds."""
    throttle = Throttle(user_calls_per_s=10, monotonic_s=clock)
    assert taken(throttle, ANN, 100) == 10 * BURST_S
    for _ in range(5):
        clock.now_s += 0.1
        assert taken(throttle, ANN, 100) == 1
    clock.now_s += 3_600
    assert taken(throttle, ANN, 100) == 10 * BURST_S


def test_whoever_comes_too_often_is_told_when_to_come(clock: Clock) -> None:
    """A call is admitted at that time, not earlier."""
    throttle = Throttle(user_calls_per_s=4, monotonic_s=clock)
    taken(throttle, ANN, 100)
    with pytest.raises(RateExceeded, match="user/ann asks for more than 4 plain calls a second") as exceeded:
        throttle.check(ANN)
    assert exceeded.value.retry_after_ms == 250
    clock.now_s += 0.249
    assert taken(throttle, ANN, 1) == 0
    clock.now_s += 0.001
    assert taken(throttle, ANN, 1) == 1


def test_each_has_a_bucket_of_its_own(clock: Clock) -> None:
    """Programs have buckets of another size, and cells and routers have none."""
    throttle = Throttle(user_calls_per_s=1, client_calls_per_s=5, monotonic_s=clock)
    assert [taken(throttle, each, 1_000) for each in (ANN, BEN, SHOP)] == [2, 2, 10]
    for role in (Role.PEER, Role.ROUTER):
        assert taken(throttle, Principal(role=role, name="ann"), 1_000) == 1_000


def test_without_a_rate_there_is_no_bound(clock: Clock) -> None:
    """And no state is kept."""
    throttle = Throttle(user_calls_per_s=5, monotonic_s=clock)
    assert taken(throttle, SHOP, 10_000) == 10_000
    assert throttle._programs is None


def test_a_slow_rate_lets_the_first_through(clock: Clock) -> None:
    """If a burst is less than one call, one call is still admitted."""
    throttle = Throttle(user_calls_per_s=0.1, monotonic_s=clock)
    assert taken(throttle, ANN, 10) == 1
    clock.now_s += 10
    assert taken(throttle, ANN, 10) == 1


def test_the_table_is_bounded(clock: Clock) -> None:
    """However many callers there are: the one that has not called for longest starts anew."""
    buckets = Buckets(per_s=1, holds_s=BURST_S, buckets_max=3)
    for name in ("a", "b", "a", "c", "d"):
        buckets.take(name, clock())
    assert list(buckets._full_s) == ["a", "c", "d"]


def test_what_costs_more_than_a_bucket_holds_is_had_and_paid_for(clock: Clock) -> None:
    """A batch of a thousand is admitted if nothing was used, and nothing more until it is paid off."""
    throttle = Throttle(user_calls_per_s=10, monotonic_s=clock)
    throttle.check(ANN, lambda: 1_000)
    clock.now_s += 100 - BURST_S
    assert taken(throttle, ANN, 1) == 0
    clock.now_s += BURST_S
    assert taken(throttle, ANN, 100) == 10 * BURST_S
    with pytest.raises(RateExceeded):
        throttle.check(ANN, lambda: 2)
    assert taken(throttle, BEN, 1) == 1
