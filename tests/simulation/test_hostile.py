"""Each safeguard against a hostile cell, switched off, leads to a violation that the simulation detects."""

from collections.abc import Callable

import pytest

from cells import cell as cell_module
from cells.domain import peer_rules
from cells.domain.account import barrier
from cells.domain.commands import PinHold
from cells.domain.moves.home import Home
from cells.domain.record import replace
from cells.domain.sagas.definition import EFFECTS, LegSpec
from cells.domain.time.hlc import Stamp
from cells.time import celltime
from cells.time.celltime import CellTime
from tests.simulation.world import World, played

# The hostile cell is in every other seed.
SEEDS = range(1, 400, 2)


def no_rules_for_peers(patch: pytest.MonkeyPatch) -> None:
    """Any cell may request any leg from any other."""

    def anything(*_: object) -> None:
        pass

    patch.setattr(peer_rules, "require_askable", anything)
    patch.setattr(cell_module, "require_own_word", anything)


def one_barrier_for_all(patch: pytest.MonkeyPatch) -> None:
    """A leg is identified by saga and name alone, whatever its requester and content."""
    patch.setattr(barrier, "foreign_barrier_id", lambda leg_id, *_: leg_id.aggregate_id())


def anybody_vouches(patch: pytest.MonkeyPatch) -> None:
    """Any cell is believed about a user's home."""
    patch.setattr(Home, "vouches", lambda *_: True)


def hearsay(patch: pytest.MonkeyPatch) -> None:
    """A cell is believed about the logs of third cells."""
    observe = CellTime.observe

    def believe(time: CellTime, stamp: Stamp, vector: dict[str, int], *, peer: str) -> None:
        observe(time, stamp, vector, peer=peer)
        for cell in vector.keys() - {time.cell}:
            time.known[cell] = max(vector[cell], time.known.get(cell, 0))

    patch.setattr(CellTime, "observe", believe)


def one_liar_stops(patch: pytest.MonkeyPatch) -> None:
    """One cell's claim of a position beyond the head stops a cell."""
    patch.setattr(celltime, "CLAIMS_TO_STOP", 1)


def any_answer_is_taken(patch: pytest.MonkeyPatch) -> None:
    """Any leg that is to be undone may be found done, and the saga then goes forward."""
    patch.setattr(LegSpec, "may_answer", lambda *_: True)


def strangers_hold_money(patch: pytest.MonkeyPatch) -> None:
    """A pin is undone only where its user is known."""
    held = replace(EFFECTS[PinHold], undoes_untaken=lambda *_: True)
    patch.setitem(EFFECTS, PinHold, held)


# A seed that is known to find it, which is tried first, and the violation that must be found.
ABLATIONS: dict[Callable[[pytest.MonkeyPatch], None], tuple[int, str]] = {
    no_rules_for_peers: (1, "a hostile cell has done what is not its own"),
    one_barrier_for_all: (339, "a hostile cell has moved money that is not its own"),
    anybody_vouches: (3, "a hostile cell has brought a user's history"),
    hearsay: (1, "a vector clock names a position that nobody has reached"),
    one_liar_stops: (1, "it does not come to rest"),
    any_answer_is_taken: (867, "a command was done twice"),
    strangers_hold_money: (429, "it does not come to rest"),
}


@pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda ablation: ablation.__name__)
def test_a_safeguard_is_missed(ablation: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Some seed fails without it."""
    ablation(monkeypatch)
    known, violation = ABLATIONS[ablation]
    assert any(violation in played(World(seed)) for seed in (known, *SEEDS))
