"""Other cells' statements about logs: their own positions are believed, all else is a claim that a commit judges."""

import pytest

from cells.domain.audit.refusals import BeyondHead, TooManyCells
from cells.domain.refusals import DataLost
from cells.domain.time.hlc import HybridLogicalClock, Stamp
from cells.domain.time.vector import CELLS_MAX
from cells.store.ports import Head
from cells.time.celltime import CellTime
from tests.doubles.clocks import ManualClock


def leading_time(**settings: object) -> CellTime:
    """us-east leads, and its log ends at 7."""
    clock = ManualClock()
    hlc = HybridLogicalClock(start_ms=clock.wall_ms())
    time = CellTime(cell="us-east", clock=clock, hlc=hlc, durable_position=7, leading=True, **settings)  # type: ignore[arg-type]
    hlc.raise_bound(clock.wall_ms() + 1_000)
    return time


def hear(time: CellTime, peer: str, **vector: int) -> None:
    positions = {name.replace("_", "-"): position for name, position in vector.items()}
    time.observe(Stamp(time.clock.wall_ms(), 0), positions, peer=peer)


def claim(time: CellTime, peer: str, position: int) -> None:
    with pytest.raises(BeyondHead, match=f"{peer} claims position {position}"):
        hear(time, peer, us_east=position)


def commit(time: CellTime, position: int) -> None:
    """As the writer does: claims from before the commit began are judged once it is durable."""
    claims = time.open_claims()
    time.durable_position = position
    time.confirm(claims, position=position, bound_ms=time.hlc.last.physical_ms + 1_000)


def test_a_peer_is_believed_about_itself_alone() -> None:
    """Its statements about third cells, and about unknown names, go into no vector clock."""
    time = leading_time()
    hear(time, "eu-west", eu_west=5, ap_tokyo=2**62, nowhere=3)
    assert time.vector() == {"eu-west": 5, "us-east": 7}


def test_one_liar_stops_nothing() -> None:
    """Its calls are refused with an alarm; the cell continues, and accepts the peer again once it tells the truth."""
    time = leading_time()
    for _ in range(3):
        claim(time, "eu-west", 2**62)
        commit(time, 8)
    assert time.disputed == {"eu-west": 2**62}
    time.check()
    assert not time.lost
    hear(time, "ap-tokyo", ap_tokyo=3, us_east=8)
    hear(time, "eu-west", eu_west=4, us_east=8)
    assert not time.disputed
    assert time.vector() == {"ap-tokyo": 3, "eu-west": 4, "us-east": 8}


def test_two_cells_do_not_lie_alike() -> None:
    """A database restored from an older copy: the peers know, and it decides nothing."""
    time = leading_time()
    claim(time, "eu-west", 11)
    commit(time, 8)
    claim(time, "ap-tokyo", 10)
    commit(time, 9)
    assert time.lost
    with pytest.raises(DataLost, match="own position 10, beyond its head 9"):
        time.check()


def test_a_claim_that_the_log_has_reached_is_none() -> None:
    """A later process of this cell had reported it, or it is from a time before the loss."""
    time = leading_time()
    for peer in ("eu-west", "ap-tokyo"):
        claim(time, peer, 9)
    commit(time, 9)
    assert not time.lost
    assert not time.disputed


def test_nothing_is_lost_before_the_database_was_asked() -> None:
    """A paused leader that wakes receives its successor's positions: its commit fails, and it stands by."""
    time = leading_time()
    begun_before = time.open_claims()
    for peer in ("eu-west", "ap-tokyo"):
        claim(time, peer, 40)
    time.prove(40)
    # The reply to the commit from before the pause.
    time.confirm(begun_before, position=8, bound_ms=0)
    assert not time.lost
    # The next commit is fenced; later this process leads again, from the log's new end.
    time.leading = False
    time.resume(Head(cell="us-east", epoch=3, position=41, hlc_bound_ms=0, beat=0, vector_clock={}))
    time.leading = True
    commit(time, 41)
    assert not time.lost


def test_what_this_cell_has_signed_is_proof() -> None:
    """One witness that presents a checkpoint with the log's own key is enough, once the database confirms the head."""
    time = leading_time()
    time.prove(9)
    assert not time.lost
    commit(time, 8)
    assert time.lost


def test_an_operator_may_say_that_a_claim_is_wrong() -> None:
    """Up to the configured position no claim counts; beyond it, all is as before."""
    time = leading_time(accepted_position=100)
    for peer in ("eu-west", "ap-tokyo"):
        hear(time, peer, us_east=100)
    commit(time, 8)
    assert not time.disputed
    claim(time, "eu-west", 101)


def test_positions_that_were_poisoned_are_forgotten() -> None:
    """Claims about third cells that an older version accepted stay in the log: each cell reports its own anew."""
    time = leading_time(forgotten=frozenset({"eu-west"}))
    time.resume(
        Head(
            cell="us-east", epoch=3, position=7, hlc_bound_ms=0, beat=0, vector_clock={"eu-west": 2**62, "ap-tokyo": 3}
        )
    )
    assert time.vector() == {"ap-tokyo": 3, "us-east": 7}
    hear(time, "eu-west", eu_west=12)
    assert time.vector()["eu-west"] == 12


def test_a_vector_clock_has_room_for_so_many_cells() -> None:
    """One more is refused; none of the known cells is dropped."""
    time = leading_time()
    for number in range(CELLS_MAX - 1):
        hear(time, f"cell-{number}", **{f"cell_{number}": 1})
    with pytest.raises(TooManyCells):
        hear(time, "one-more", one_more=1)
    hear(time, "cell-0", cell_0=2)
    assert len(time.vector()) == CELLS_MAX
