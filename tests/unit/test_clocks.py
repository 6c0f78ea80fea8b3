"""The adapters for time and ids, and the watch over the wall clock."""

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cells.domain.refusals import ClockJumped
from cells.domain.time.clock_watch import ClockWatch
from cells.domain.time.hlc import HybridLogicalClock, Stamp
from cells.domain.time.vector import parse_vector
from cells.time.celltime import CellTime
from cells.time.clocks import SystemClock, UuidV7Ids
from server.process.clock import STAMP_KEY, VECTOR_KEY, CellClock, sent_ms
from server.shell.identity.principal import Principal, Role
from tests.doubles.clocks import ManualClock, SeededIds

if TYPE_CHECKING:
    from cells.store.ports import Clock, Ids


def test_the_adapters_fit_their_ports() -> None:
    """The type checker enforces it."""
    clocks: list[Clock] = [SystemClock(), ManualClock()]
    ids: list[Ids] = [UuidV7Ids(clocks[0]), SeededIds(clocks[1])]
    assert len(clocks) == len(ids)


def test_the_system_clock_agrees_with_itself() -> None:
    """Both forms of the wall clock show the same moment, in UTC."""
    clock = SystemClock()
    before = clock.wall_ms()
    moment = clock.wall()
    after = clock.wall_ms()
    assert moment.tzinfo is UTC
    # Only integers: a float of microseconds since 1970 would be rounded.
    elapsed = moment - datetime(1970, 1, 1, tzinfo=UTC)
    assert before <= (elapsed.days * 86_400 + elapsed.seconds) * 1_000 + elapsed.microseconds // 1_000 <= after


def test_the_monotonic_clock_moves_on() -> None:
    """It never goes back, and counts real seconds."""
    clock = SystemClock()
    before = clock.monotonic_s()
    time.sleep(0.01)
    assert clock.monotonic_s() - before >= 0.01


def test_the_manual_clock_does_as_told() -> None:
    """Advancing moves both clocks, a jump only the wall clock."""
    clock = ManualClock(wall_ms=1_000)
    clock.advance(ms=10)
    assert (clock.wall_ms(), clock.monotonic_s()) == (1_010, 0.01)
    clock.jump(ms=-500)
    assert (clock.wall_ms(), clock.monotonic_s()) == (510, 0.01)
    assert clock.wall() == datetime(1970, 1, 1, 0, 0, 0, 510_000, tzinfo=UTC)


def unix_ms(uuid: UUID) -> int:
    return uuid.int >> 80


@given(st.lists(st.integers(-20, 20), max_size=200))
def test_ids_rise_whatever_the_clock_does(steps: list[int]) -> None:
    """Strictly increasing, well formed, and never behind the clock."""
    clock = ManualClock(wall_ms=1_000_000)
    ids = UuidV7Ids(clock)
    last = ids.event_id()
    for step in steps:
        clock.jump(ms=step)
        made = ids.event_id()
        assert made > last
        assert (made.version, made.variant) == (7, RFC_4122)
        assert unix_ms(made) >= clock.wall_ms()
        last = made


def test_a_full_counter_runs_ahead_of_the_clock() -> None:
    """When the random bits overflow, the next millisecond is used and order is kept."""
    clock = ManualClock(wall_ms=5)
    ids = UuidV7Ids(clock, entropy=lambda count: b"\xff" * count)
    first = ids.event_id()
    ids._number = ids._number_max
    second = ids.event_id()
    assert second > first
    assert unix_ms(second) == 6


def test_many_ids_in_a_row_differ() -> None:
    """No id repeats over refills and milliseconds, or between two generators."""
    ids = UuidV7Ids(SystemClock())
    others = UuidV7Ids(SystemClock())
    made = [ids.event_id() for _ in range(5_000)] + [others.event_id() for _ in range(5_000)]
    assert len(set(made)) == 10_000
    assert made[:5_000] == sorted(made[:5_000])


def test_seeded_ids_come_again() -> None:
    """The same seed and clock give the same ids; another seed gives others."""
    one, same, other = (SeededIds(ManualClock(), seed=seed) for seed in (1, 1, 2))
    ids = [one.event_id() for _ in range(300)]
    assert ids == [same.event_id() for _ in range(300)]
    assert ids[0] != other.event_id()


def watched() -> ClockWatch:
    return ClockWatch(wall_ms=1_000_000, monotonic_ms=0, limit_ms=500)


@pytest.mark.parametrize("jump_ms", [501, -501, 3_600_000, -3_600_000])
def test_a_jump_is_reported_until_it_mends(jump_ms: int) -> None:
    """Time is refused while the wall clock is wrong, however long, and then used again."""
    watch = watched()
    watch.check(1_000_010, 10)
    for monotonic_ms in (20, 1_000_000, 100_000_000):
        with pytest.raises(ClockJumped) as refused:
            watch.check(1_000_000 + monotonic_ms + jump_ms, monotonic_ms)
        assert refused.value.facts == {"jump_ms": jump_ms}
    watch.check(1_000_000 + 100_000_001, 100_000_001)


@pytest.mark.parametrize("jump_ms", [500, -500, 0])
def test_less_than_the_limit_is_let_pass(jump_ms: int) -> None:
    """The limit itself is allowed."""
    watched().check(1_000_100 + jump_ms, 100)


def test_steering_is_followed_for_ever() -> None:
    """A clock steered by 400 parts in a million for a day is off by 34 seconds and has never jumped."""
    watch = watched()
    for second in range(86_400):
        watch.check(1_000_000 + second * 1_000 + second * 400 // 1_000, second * 1_000)


def test_faster_than_steering_is_a_jump() -> None:
    """Small steps that add up faster than any steering are detected."""
    watch = watched()
    noticed = None
    for second in range(1_000):
        try:
            watch.check(1_000_000 + second * 1_000 + second * 5, second * 1_000)
        except ClockJumped as jumped:
            noticed = noticed or jumped
    assert noticed is not None


@pytest.mark.parametrize("jump_ms", [501, -501, 3_600_000, -3_600_000])
def test_steady_time_does_not_jump(jump_ms: int) -> None:
    """It continues as if nobody had set the clock, and equals the clock again once that is right."""
    watch = watched()
    for monotonic_ms in (20, 1_000_000, 100_000_000):
        assert watch.steady(1_000_000 + monotonic_ms + jump_ms, monotonic_ms) == 1_000_000 + monotonic_ms
        assert watch.steady(1_000_007 + monotonic_ms, monotonic_ms) == 1_000_007 + monotonic_ms


def test_an_operator_can_accept_the_clock() -> None:
    """After an operator's confirmation the jump no longer counts."""
    watch = watched()
    with pytest.raises(ClockJumped):
        watch.check(5_000_000, 10)
    watch.accept(5_000_000, 10)
    watch.check(5_000_010, 20)


# --- the time that a cell sends with every call and answer between processes ------------------------------------------


def cell_time(name: str, clock: ManualClock, *, promised_ms: int = 1_000) -> CellTime:
    """The time of a leader that has promised to issue nothing past `promised_ms` from now."""
    time = CellTime(cell=name, clock=clock, hlc=HybridLogicalClock(start_ms=clock.wall_ms()), leading=True)
    time.hlc.raise_bound(clock.wall_ms() + promised_ms)
    return time


def stamp_of(metadata: dict[str, str]) -> Stamp:
    return Stamp.parse(metadata[STAMP_KEY], field=STAMP_KEY)


@pytest.mark.parametrize("leading", [True, False])
def test_whoever_may_give_out_no_stamp_still_says_what_it_knows(leading: bool) -> None:  # noqa: FBT001
    """Its promise is used up, or it is deposed: effects elsewhere are still stamped after the call's own cause."""
    clock = ManualClock()
    time = cell_time("us-east", clock)
    cause = time.stamp()
    time.durable_position = 7
    # A peer half a second ahead calls when the own promise has almost run out.
    clock.advance(ms=900)
    time.observe(Stamp(clock.wall_ms() + 400, 3), {"eu-west": 5}, peer="eu-west")
    time.leading = leading
    said = dict(CellClock(time=time).outgoing())
    assert cause < stamp_of(said) == time.hlc.last
    assert parse_vector(said[VECTOR_KEY], field=VECTOR_KEY) == {"eu-west": 5, "us-east": 7}
    there = cell_time("eu-west", clock)
    there.durable_position = 5
    CellClock(time=there).received(tuple(said.items()), Principal(role=Role.PEER, name="us-east"))
    assert there.stamp() > cause
    assert there.vector()["us-east"] == 7


def test_a_leader_gives_out_a_new_stamp_with_each_call() -> None:
    """Sending is an event of its own, as long as the promise allows it."""
    clock = ManualClock()
    wire = CellClock(time=cell_time("us-east", clock))
    first, second = (stamp_of(dict(wire.outgoing())) for _ in range(2))
    assert first < second
    assert sent_ms(wire.outgoing()) == second.physical_ms
    assert sent_ms(()) == 0


def test_a_standby_takes_in_what_it_hears() -> None:
    """It may lead by the time it executes the request, and must then know of its cause."""
    clock = ManualClock()
    time = cell_time("us-east", clock)
    time.leading = False
    cause = Stamp(clock.wall_ms() + 300, 4)
    # A standby does not know where its log ends: a claim of position 9 is no alarm.
    time.observe(cause, {"eu-west": 5, "us-east": 9}, peer="eu-west")
    time.leading = True
    assert time.stamp() > cause
    assert time.vector() == {"eu-west": 5, "us-east": 0}
