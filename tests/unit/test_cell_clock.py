"""The time that a cell sends with every call and answer between processes."""

import pytest

from cells.domain.time.hlc import HybridLogicalClock, Stamp
from cells.domain.time.vector import parse_vector
from cells.time.celltime import CellTime
from server.process.clock import STAMP_KEY, VECTOR_KEY, CellClock, sent_ms
from server.shell.identity.principal import Principal, Role
from tests.doubles.clocks import ManualClock


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
