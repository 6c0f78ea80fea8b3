"""The verdict on a run: each check holds for a good run and fails for a bad one."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from typing import Any, cast

import pytest
from rich.console import Console

from cellbook.v1 import saga_pb2
from lab.books import Check
from lab.chaos.bids import BIDS_PER_S, Bid, LocalLoad, RemoteBids
from lab.chaos.scenario import Bookkeeper, Observation, Scenario, Timeline, _during
from lab.chaos.settlements import CAUGHT, DOOMED, Fleet, Settlement, shapes
from lab.chaos.verdict import Verdict
from lab.cluster import CELLS

CUT_S, MENDED_S = 100, 130
LOADED_S = 90


class NoMarket:
    def __init__(self) -> None:
        self.cells = {cell.name: cell for cell in CELLS}


def good() -> Scenario:
    """Cut from 100 to 130 s, local bids from 90 s on, recovered after two."""
    market = cast("Any", NoMarket())
    scenario = Scenario(
        cut_seconds=30,
        fleet=Fleet(market, []),
        load=LocalLoad(market),
        remote=RemoteBids(market),
        keeper=Bookkeeper(market),
    )
    won = cast("Any", None)
    scenario.fleet.settlements = [
        Settlement(shape=shape, won=won, saga_id=str(number)) for number, shape in enumerate(shapes())
    ]
    scenario.spread = Counter(CAUGHT) + Counter({"pin": DOOMED})
    scenario.stranded = Counter({"pin": 44, "back": 3})
    scenario.turned_back = {each.saga_id for each in scenario.fleet.settlements if each.shape.doomed}
    scenario.loaded_s, scenario.cut_s, scenario.mended_s, scenario.recovered_s = LOADED_S, CUT_S, MENDED_S, MENDED_S + 2
    bids = [
        Bid(sent_s=at, answered_s=at + 0.01, answered=True)
        for at in (LOADED_S + number / BIDS_PER_S for number in range((MENDED_S - LOADED_S) * BIDS_PER_S))
    ]
    scenario.load.bids += bids
    scenario.keeper.observations.append(Observation(movements=0, in_transit_minor=0, wrong=()))
    return scenario


def checks(scenario: Scenario) -> list[Check]:
    """Those that need no cells."""
    verdict = Verdict(scenario)
    return [verdict._in_flight(), verdict._stranded(), verdict._recovered(), *verdict._local_bids()]


def failed(scenario: Scenario) -> list[str]:
    return [check.name for check in checks(scenario) if not check.held]


def test_a_good_night_holds() -> None:
    """It has no violation."""
    assert failed(good()) == []
    assert Verdict(good()).rate_ratio == pytest.approx(1.0, abs=0.02)


def one_too_many(scenario: Scenario) -> None:
    scenario.spread["pin"] += 1


def no_one_at_a_leg(scenario: Scenario) -> None:
    scenario.spread["pin"] += scenario.spread.pop("settle")


def one_found_a_way_around(scenario: Scenario) -> None:
    scenario.stranded["pin"] -= 1


def one_turned_back_too_early(scenario: Scenario) -> None:
    scenario.turned_back.add(next(each.saga_id for each in scenario.fleet.settlements if not each.shape.doomed))


def slow_recovery(scenario: Scenario) -> None:
    scenario.recovered_s = MENDED_S + 30.1


def no_recovery(scenario: Scenario) -> None:
    scenario.left.append(saga_pb2.Saga(saga_id="stuck"))


def a_bid_without_an_answer(scenario: Scenario) -> None:
    scenario.load.bids[-1].answered = False


def slow_bids(scenario: Scenario) -> None:
    bids = scenario.load.bids
    during = [replace(bid) for bid in bids if bid.sent_s >= CUT_S]
    bids[:] = [*(bid for bid in bids if bid.sent_s < CUT_S), *during[::2]]


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (one_too_many, "in flight"),
        (no_one_at_a_leg, "in flight"),
        (one_found_a_way_around, "none of them ended"),
        (one_turned_back_too_early, "none of them ended"),
        (slow_recovery, "recovered"),
        (no_recovery, "recovered"),
        (a_bid_without_an_answer, "every local bid"),
        (slow_bids, "rate"),
    ],
)
def test_a_bad_night_is_caught(spoil: Callable[[Scenario], None], name: str) -> None:
    """Each fault fails its own check and no other."""
    scenario = good()
    spoil(scenario)
    (what,) = failed(scenario)
    assert name in what


async def test_the_cells_are_asked_once_a_second_during_the_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for the timeline takes nothing from the bids whose rate is measured."""
    scenario, asked = good(), 0

    async def present(_: Scenario) -> str:
        nonlocal asked
        asked += 1
        return "cut"

    async def all_late(_: Fleet) -> bool:
        return True

    monkeypatch.setattr("lab.chaos.scenario._present", present)
    monkeypatch.setattr("lab.chaos.scenario._all_late", all_late)
    monkeypatch.setattr(scenario.remote, "bid_everywhere", lambda: None)
    scenario.cut_s, scenario.cut_seconds = time.monotonic(), 2
    await _during(scenario, Timeline(Console(file=StringIO())))
    assert 1 <= asked <= 3
