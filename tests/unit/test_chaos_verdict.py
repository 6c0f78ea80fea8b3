"""The verdict on a run: each check holds for a good run and fails for a bad one."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from cellbook.v1 import saga_pb2
from server.cli.chaos.load import BIDS_PER_S, Bid, LocalLoad, Stall
from server.cli.chaos.looks import Bookkeeper, Look
from server.cli.chaos.night import Night
from server.cli.chaos.remote_bids import RemoteBids
from server.cli.chaos.settlements import CAUGHT, DOOMED, Fleet, Settlement, shapes
from server.cli.chaos.verdict import Verdict
from server.cli.checks import Check
from server.cli.cluster import CELLS

CUT_S, MENDED_S = 100, 130
LOADED_S = 90


class NoMarket:
    def __init__(self) -> None:
        self.cells = {cell.name: cell for cell in CELLS}


def good() -> Night:
    """Cut from 100 to 130 s, local bids from 90 s on, recovered after two."""
    market = cast("Any", NoMarket())
    night = Night(
        cut_seconds=30,
        fleet=Fleet(market, []),
        load=LocalLoad(market),
        remote=RemoteBids(market),
        keeper=Bookkeeper(market),
    )
    people = cast("Any", None)
    night.fleet.settlements = [
        Settlement(shape=shape, auction=people, winner=people, seller=people, price_minor=1, saga_id=str(number))
        for number, shape in enumerate(shapes())
    ]
    night.spread = Counter(CAUGHT) + Counter({"pin": DOOMED})
    night.stranded = Counter({"pin": 44, "back": 3})
    night.turned_back = {each.saga_id for each in night.fleet.settlements if each.shape.doomed}
    night.loaded_s, night.cut_s, night.mended_s, night.recovered_s = LOADED_S, CUT_S, MENDED_S, MENDED_S + 2
    bids = [
        Bid(sent_s=at, answered_s=at + 0.01, answered=True)
        for at in (LOADED_S + number / BIDS_PER_S for number in range((MENDED_S - LOADED_S) * BIDS_PER_S))
    ]
    night.load._stalls["us-east"] = Stall([], [], bids)
    night.keeper.looks.append(Look(movements=0, in_transit_minor=0, wrong=()))
    return night


def checks(night: Night) -> list[Check]:
    """Those that need no cells."""
    verdict = Verdict(night)
    return [verdict._in_flight(), verdict._stranded(), verdict._recovered(), *verdict._local_bids()]


def failed(night: Night) -> list[str]:
    return [check.name for check in checks(night) if not check.held]


def test_a_good_night_holds() -> None:
    """It has no violation."""
    assert failed(good()) == []
    assert Verdict(good()).rate_ratio == pytest.approx(1.0, abs=0.02)


def one_too_many(night: Night) -> None:
    night.spread["pin"] += 1


def no_one_at_a_leg(night: Night) -> None:
    night.spread["pin"] += night.spread.pop("settle")


def one_found_a_way_around(night: Night) -> None:
    night.stranded["pin"] -= 1


def one_turned_back_too_early(night: Night) -> None:
    night.turned_back.add(next(each.saga_id for each in night.fleet.settlements if not each.shape.doomed))


def slow_recovery(night: Night) -> None:
    night.recovered_s = MENDED_S + 30.1


def no_recovery(night: Night) -> None:
    night.left.append(saga_pb2.Saga(saga_id="stuck"))


def a_bid_without_an_answer(night: Night) -> None:
    night.load._stalls["us-east"].bids[-1].answered = False


def slow_bids(night: Night) -> None:
    stall = night.load._stalls["us-east"]
    during = [replace(bid) for bid in stall.bids if bid.sent_s >= CUT_S]
    stall.bids[:] = [*(bid for bid in stall.bids if bid.sent_s < CUT_S), *during[::2]]


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
def test_a_bad_night_is_caught(spoil: Callable[[Night], None], name: str) -> None:
    """Each fault fails its own check and no other."""
    night = good()
    spoil(night)
    (what,) = failed(night)
    assert name in what
