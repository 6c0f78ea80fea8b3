"""The hybrid logical clock, as a table of steps and as properties."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cells.domain.refusals import ClockAtBound, ClockOffsetExceeded, FieldInvalid
from cells.domain.time.hlc import LOGICAL_MAX, PHYSICAL_MAX_MS, HybridLogicalClock, Stamp
from cells.domain.time.vector import (
    CELLS_MAX,
    POSITION_MAX,
    format_vector,
    parse_vector,
)


@dataclass(frozen=True, kw_only=True)
class Step:
    """At wall time `now` the clock ticks or takes in the stamp `heard`; then it shows `last`."""

    why: str
    now: int
    last: tuple[int, int]
    heard: tuple[int, int] | None = None
    refused: bool = False


HISTORY = (
    Step(why="the first stamp", now=10, last=(10, 0)),
    Step(why="the wall clock moves on", now=11, last=(11, 0)),
    Step(why="twice in a millisecond", now=11, last=(11, 1)),
    Step(why="our clock mysteriously jumps back", now=3, last=(11, 2)),
    Step(why="and goes on from there", now=4, last=(11, 3)),
    Step(why="a stamp of the past teaches nothing", now=12, heard=(9, 7), last=(11, 3)),
    Step(why="but time passes", now=12, last=(12, 0)),
    Step(why="a stamp somewhat ahead", now=13, heard=(20, 4), last=(20, 4)),
    Step(why="receive comes after send", now=14, last=(20, 5)),
    Step(why="same millisecond, greater counter", now=15, heard=(20, 9), last=(20, 9)),
    Step(why="same millisecond, smaller counter", now=15, heard=(20, 8), last=(20, 9)),
    Step(why="as far ahead as allowed", now=15, heard=(25, 1), last=(25, 1)),
    Step(why="one too far", now=15, heard=(26, 0), last=(25, 1), refused=True),
    Step(why="a broken clock of a peer", now=15, heard=(PHYSICAL_MAX_MS, 0), last=(25, 1), refused=True),
    Step(why="nothing of it has stuck", now=16, last=(25, 2)),
    Step(why="the wall clock catches up", now=30, last=(30, 0)),
    Step(why="a peer's counter is full", now=30, heard=(30, LOGICAL_MAX), last=(30, LOGICAL_MAX)),
    Step(why="overflow advances the physical part", now=30, last=(31, 0)),
    Step(why="and goes on from there", now=31, last=(31, 1)),
    Step(why="up to the bound, not into it", now=100, last=(99, 0)),
    Step(why="past the bound only the counter moves", now=150, last=(99, 1)),
)


def test_a_history() -> None:
    """The clock shows the table's values, whatever the wall clock and the peers do."""
    clock = HybridLogicalClock(max_offset_ms=10)
    clock.raise_bound(100)
    for step in HISTORY:
        if step.heard is None:
            assert clock.tick(step.now) == step.last, step.why
        elif step.refused:
            with pytest.raises(ClockOffsetExceeded):
                clock.observe(Stamp(*step.heard), step.now, peer="eu-west")
        else:
            clock.observe(Stamp(*step.heard), step.now, peer="eu-west")
        assert clock.last == step.last, step.why


def test_a_refused_stamp_names_the_peer_and_the_offset() -> None:
    """The refusal tells an operator which clock to correct, and by how much."""
    clock = HybridLogicalClock(max_offset_ms=500)
    with pytest.raises(ClockOffsetExceeded) as refused:
        clock.observe(Stamp(1_501, 0), 1_000, peer="eu-west")
    assert refused.value.facts == {"peer": "eu-west", "offset_ms": 501, "max_offset_ms": 500}


def test_before_a_bound_is_promised_nothing_is_given_out() -> None:
    """A new clock has no promise, and refuses without changing."""
    clock = HybridLogicalClock(start_ms=50)
    last = clock.last
    with pytest.raises(ClockAtBound):
        clock.tick(60)
    assert clock.last == last
    clock.raise_bound(1_000)
    assert clock.tick(60) == (60, 0)


def test_the_bound_never_falls() -> None:
    """A late promise of less than before changes nothing."""
    clock = HybridLogicalClock()
    clock.raise_bound(1_000)
    clock.raise_bound(10)
    assert clock.tick(500) == (500, 0)


def test_stamps_before_the_bound_run_out_at_last() -> None:
    """With the counter full at the last millisecond the clock refuses, and a raised bound frees it."""
    clock = HybridLogicalClock()
    clock.raise_bound(100)
    clock.observe(Stamp(99, LOGICAL_MAX - 1), 200, peer="eu-west")
    assert clock.tick(200) == (99, LOGICAL_MAX)
    for _ in range(2):
        with pytest.raises(ClockAtBound):
            clock.tick(200)
    clock.raise_bound(150)
    assert clock.tick(120) == (120, 0)


def test_a_peer_past_the_bound_is_waited_for() -> None:
    """A stamp received from beyond the bound stops the clock until the bound is raised."""
    clock = HybridLogicalClock(max_offset_ms=500)
    clock.raise_bound(100)
    clock.observe(Stamp(300, 0), 90, peer="eu-west")
    with pytest.raises(ClockAtBound):
        clock.tick(90)
    clock.raise_bound(1_000)
    assert clock.tick(90) == (300, 1)


def test_a_successor_starts_where_the_promise_ended() -> None:
    """Its first stamp is greater than any that the predecessor could issue."""
    before = HybridLogicalClock()
    before.raise_bound(100)
    before.observe(Stamp(99, LOGICAL_MAX - 1), 99, peer="eu-west")
    greatest = before.tick(1_000)
    after = HybridLogicalClock()
    after.restart(100)
    after.raise_bound(200)
    assert after.tick(7) == (100, 0) > greatest


def test_without_the_bound_a_successor_could_repeat_a_stamp() -> None:
    """Ablation: restarted without the promise, a clock behind its predecessor's issues an older stamp."""
    before = HybridLogicalClock()
    before.raise_bound(100)
    given_out = before.tick(99)
    after = HybridLogicalClock()
    after.raise_bound(200)
    assert after.tick(7) < given_out


def test_restart_keeps_what_was_heard() -> None:
    """A leader that comes back does not forget its own stamps or its peers'."""
    clock = HybridLogicalClock(max_offset_ms=500)
    clock.observe(Stamp(300, 7), 100, peer="eu-west")
    clock.restart(200)
    clock.raise_bound(1_000)
    assert clock.tick(250) == (300, 8)


@pytest.mark.parametrize("text", ["", "-1", "+1", "1_0", " 1", "1.0", "x", "٣", "9" * 20, str(2**64), str(2**63)])
def test_a_malformed_stamp_is_refused(text: str) -> None:
    """Only stamps that a clock could have sent are accepted from metadata."""
    with pytest.raises(FieldInvalid) as refused:
        Stamp.parse(text, field="cellbook-hlc")
    assert refused.value.facts["field"] == "cellbook-hlc"


STAMPS = st.builds(Stamp, st.integers(0, PHYSICAL_MAX_MS), st.integers(0, LOGICAL_MAX))


@given(STAMPS, STAMPS)
def test_packing_keeps_order_and_comes_back(one: Stamp, other: Stamp) -> None:
    """A packed stamp fits a signed 64-bit column, sorts as the tuple does, and is read back the same."""
    assert (one.pack() < other.pack()) == (one < other)
    assert 0 <= one.pack() < 2**63
    assert Stamp.parse(str(one.pack()), field="x") == one


MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("tick"), st.integers(-50, 3_000), st.just(0)),
        st.tuples(st.just("observe"), st.integers(0, 3_000), st.integers(LOGICAL_MAX - 2, LOGICAL_MAX)),
        st.tuples(st.just("bound"), st.integers(0, 3_000), st.just(0)),
        st.tuples(st.just("restart"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@given(MOVES)
def test_stamps_only_ever_rise_and_stay_below_the_bound(moves: list[tuple[str, int, int]]) -> None:
    """Through jumps, peers and restarts: strictly increasing, above all heard, below the promise."""
    clock = HybridLogicalClock(max_offset_ms=500)
    bound, seen, now = 0, Stamp(-1, 0), 0
    for move, value, logical in moves:
        if move == "tick":
            now = value
            try:
                stamp = clock.tick(now)
            except ClockAtBound:
                continue
            assert stamp > seen
            assert stamp.physical_ms < bound
            assert 0 <= stamp.logical <= LOGICAL_MAX
            seen = stamp
        elif move == "observe":
            remote, before = Stamp(value, logical), clock.last
            try:
                clock.observe(remote, now, peer="p")
                seen = max(seen, remote)
            except ClockOffsetExceeded:
                assert remote.physical_ms > now + 500
                assert clock.last == before
        elif move == "bound":
            clock.raise_bound(value)
            bound = max(bound, value)
        else:
            clock = HybridLogicalClock(max_offset_ms=500)
            clock.restart(bound)
            # Received stamps are forgotten with the process; issued ones are not.
            seen = Stamp(bound - 1, LOGICAL_MAX) if bound else Stamp(0, 0)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3_000)), max_size=40))
def test_what_is_decided_next_is_stamped_with_the_time_that_it_was_decided_by(steps: list[tuple[bool, int]]) -> None:
    """Whatever peers have sent in between, and also at the bound."""
    clock = HybridLogicalClock(max_offset_ms=10_000)
    clock.raise_bound(2_000)
    for heard, ms in steps:
        if heard and ms < clock.bound_ms:
            clock.observe(Stamp(ms, 0), 0, peer="eu-west")
        decided_ms = clock.next_ms(ms)
        try:
            assert clock.tick(ms).physical_ms == decided_ms
        except ClockAtBound:
            assert decided_ms == clock.bound_ms - 1


# --- vector clocks: their metadata form -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "vector"),
    [
        ("", {}),
        ("us-east=12,eu-west=7", {"us-east": 12, "eu-west": 7}),
        ("a=0", {"a": 0}),
        (f"a={POSITION_MAX}", {"a": POSITION_MAX}),
    ],
)
def test_reading(text: str, vector: dict[str, int]) -> None:
    """A peer's text is read as intended."""
    assert parse_vector(text, field="f") == vector


@pytest.mark.parametrize(
    "text",
    [
        "a", "a=", "=1", "a=1,", ",a=1", "a=1,,b=2", "a=-1", "a=+1", "a=01", "a=1.0", "a=1_0", "a= 1", " a=1",
        "A=1", "a_b=1", "a=1;b=2", "a=1,a=2", f"a={POSITION_MAX + 1}", "a=" + "9" * 40, "ü=1", "a=٣", "a=1\n",
        f"{'x' * 33}=1", ",".join(f"c{n}=1" for n in range(CELLS_MAX + 1)), "a=1," * 100_000,
    ],
)  # fmt: skip
def test_malformed_vectors_are_refused(text: str) -> None:
    """An invalid vector gives a refusal that names the field and shows at most one line of it."""
    with pytest.raises(FieldInvalid) as refused:
        parse_vector(text, field="cellbook-vector")
    assert refused.value.facts["field"] == "cellbook-vector"
    assert len(refused.value.message) < 200


def test_the_largest_vector_is_read() -> None:
    """The bounds are exact: 64 cells with names of 32 letters at the last position fit."""
    largest = {f"{n:032d}": POSITION_MAX for n in range(CELLS_MAX)}
    assert parse_vector(format_vector(largest), field="f") == largest


VECTORS = st.dictionaries(st.from_regex(r"[a-z0-9-]{1,32}", fullmatch=True), st.integers(0, POSITION_MAX), max_size=8)


@given(VECTORS)
def test_text_comes_back(vector: dict[str, int]) -> None:
    """Format and parse are inverse, and the form does not depend on the order of insertion."""
    text = format_vector(vector)
    assert parse_vector(text, field="f") == vector
    assert format_vector(dict(reversed(vector.items()))) == text
