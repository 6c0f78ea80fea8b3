"""The hybrid logical clock, as a table of steps and as properties."""

from contextlib import nullcontext
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cells.domain.refusals import ClockAtBound, ClockOffsetExceeded, FieldInvalid, Refused
from cells.domain.time.hlc import LOGICAL_MAX, PHYSICAL_MAX_MS, HybridLogicalClock, Stamp
from cells.domain.time.vector import (
    CELLS_MAX,
    POSITION_MAX,
    format_vector,
    parse_vector,
)


@dataclass(frozen=True, kw_only=True)
class Step:
    """At wall time `now` the clock ticks or takes in the stamp `heard`; then it shows `last`.

    `bound` and `restart` come before that. `refused`: the tick or the stamp is, and leaves the clock as it was.
    """

    why: str
    now: int
    last: tuple[int, int]
    heard: tuple[int, int] | None = None
    bound: int | None = None
    restart: int | None = None
    refused: type[Refused] | None = None


HISTORY = (
    Step(why="the first stamp", bound=100, now=10, last=(10, 0)),
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
    Step(why="one too far", now=15, heard=(26, 0), last=(25, 1), refused=ClockOffsetExceeded),
    Step(why="a broken clock of a peer", now=15, heard=(PHYSICAL_MAX_MS, 0), last=(25, 1), refused=ClockOffsetExceeded),
    Step(why="nothing of it has stuck", now=16, last=(25, 2)),
    Step(why="the wall clock catches up", now=30, last=(30, 0)),
    Step(why="a peer's counter is full", now=30, heard=(30, LOGICAL_MAX), last=(30, LOGICAL_MAX)),
    Step(why="overflow advances the physical part", now=30, last=(31, 0)),
    Step(why="and goes on from there", now=31, last=(31, 1)),
    Step(why="up to the bound, not into it", now=100, last=(99, 0)),
    Step(why="past the bound only the counter moves", now=150, last=(99, 1)),
)
# Up to the bound that is promised, and not beyond it.
FULL = LOGICAL_MAX
BOUNDS: dict[str, tuple[Step, ...]] = {
    "nothing is given out before a bound is promised": (
        Step(why="a new clock has no promise", now=60, last=(0, 0), refused=ClockAtBound),
        Step(why="and then it has", bound=1_000, now=60, last=(60, 0)),
    ),
    "the bound never falls": (
        Step(why="a promise", bound=1_000, now=400, last=(400, 0)),
        Step(why="a late promise of less changes nothing", bound=10, now=500, last=(500, 0)),
    ),
    "stamps before the bound run out at last": (
        Step(why="a peer is nearly there", bound=100, now=200, heard=(99, FULL - 1), last=(99, FULL - 1)),
        Step(why="the last stamp of all", now=200, last=(99, FULL)),
        Step(why="none is left", now=200, last=(99, FULL), refused=ClockAtBound),
        Step(why="nor the second time", now=200, last=(99, FULL), refused=ClockAtBound),
        Step(why="a raised bound frees it", bound=150, now=120, last=(120, 0)),
    ),
    "a peer past the bound is waited for": (
        Step(why="it is ahead", bound=100, now=290, heard=(300, 0), last=(300, 0)),
        Step(why="until the bound is raised", now=290, last=(300, 0), refused=ClockAtBound),
        Step(why="and then on from the peer's", bound=1_000, now=290, last=(300, 1)),
    ),
    "a restart keeps what was heard": (
        Step(why="of a peer", now=295, heard=(300, 7), last=(300, 7)),
        Step(why="a leader that comes back", restart=200, bound=1_000, now=250, last=(300, 8)),
    ),
}


@pytest.mark.parametrize("steps", [HISTORY, *BOUNDS.values()], ids=["a history", *BOUNDS])
def test_the_clock_goes_by_the_table(steps: tuple[Step, ...]) -> None:
    """It shows the table's values, whatever the wall clock and the peers do."""
    clock = HybridLogicalClock(max_offset_ms=10)
    for step in steps:
        if step.restart is not None:
            clock.restart(step.restart)
        if step.bound is not None:
            clock.raise_bound(step.bound)
        with pytest.raises(step.refused) if step.refused else nullcontext():
            if step.heard is None:
                assert clock.tick(step.now) == step.last, step.why
            else:
                clock.observe(Stamp(*step.heard), step.now, peer="eu-west")
        assert clock.last == step.last, step.why


def test_a_refused_stamp_names_the_peer_and_the_offset() -> None:
    """The refusal tells an operator which clock to correct, and by how much."""
    clock = HybridLogicalClock(max_offset_ms=500)
    with pytest.raises(ClockOffsetExceeded) as refused:
        clock.observe(Stamp(1_501, 0), 1_000, peer="eu-west")
    assert refused.value.facts == {"peer": "eu-west", "offset_ms": 501, "max_offset_ms": 500}


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
