"""The lab's evidence on faults: settlements in flight, balances that are watched, and the verdict on a run."""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import pytest
from rich.console import Console

from cellbook.v1 import event_pb2, saga_pb2
from cellbook.v1.types_pb2 import Posting
from cells.domain.sagas.settlement import SETTLEMENT_LEGS
from lab.books import Check
from lab.chaos.bids import BIDS_PER_S, Bid, LocalLoad, RemoteBids
from lab.chaos.links import ENDS
from lab.chaos.scenario import Bookkeeper, Observation, Scenario, Timeline, _during
from lab.chaos.settlements import CAUGHT, DOOMED, LEGS, TOTAL, Fleet, Settlement, Shape, shapes
from lab.chaos.verdict import Verdict, double_effects
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


def test_a_good_run_holds() -> None:
    """It has no violation."""
    assert failed(good()) == []
    assert Verdict(good()).rate_ratio == pytest.approx(1.0, abs=0.02)


def turned_back_too_early(scenario: Scenario) -> None:
    scenario.turned_back.add(next(each.saga_id for each in scenario.fleet.settlements if not each.shape.doomed))


def slow_bids(scenario: Scenario) -> None:
    bids = scenario.load.bids
    during = [replace(bid) for bid in bids if bid.sent_s >= CUT_S]
    bids[:] = [*(bid for bid in bids if bid.sent_s < CUT_S), *during[::2]]


BAD: dict[str, tuple[Callable[[Scenario], object], str]] = {
    "one too many": (lambda bad: bad.spread.update(["pin"]), "in flight"),
    "none at a leg": (lambda bad: bad.spread.update(pin=bad.spread.pop("settle")), "in flight"),
    "one found a way around": (lambda bad: bad.stranded.subtract(["pin"]), "none of them ended"),
    "one turned back too early": (turned_back_too_early, "none of them ended"),
    "slow recovery": (lambda bad: setattr(bad, "recovered_s", MENDED_S + 30.1), "recovered"),
    "no recovery": (lambda bad: bad.left.append(saga_pb2.Saga(saga_id="stuck")), "recovered"),
    "a bid without an answer": (lambda bad: setattr(bad.load.bids[-1], "answered", False), "every local bid"),
    "slow bids": (slow_bids, "rate"),
}


@pytest.mark.parametrize(("spoil", "name"), BAD.values(), ids=BAD)
def test_a_bad_run_is_caught(spoil: Callable[[Scenario], object], name: str) -> None:
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


# --- the settlements brought in flight: all of them need the link, from whichever leg they are released ---------------


def stop(shape: Shape) -> str:
    """The first leg that needs the link, counted from where it is held."""
    far = next(end for end in ENDS if end != shape.auction_cell)
    legs = SETTLEMENT_LEGS[LEGS.index(shape.leg) :]
    return next((spec.leg for spec in legs if getattr(shape, spec.at) == far), "")


def test_there_are_forty_seven_spread_over_every_leg() -> None:
    """Each leg has some, three more have a deadline, and both ends of the link orchestrate."""
    every = shapes()
    assert len(every) == TOTAL == 47
    assert set(Counter(shape.leg for shape in every)) == set(LEGS)
    assert sum(shape.doomed for shape in every) == DOOMED == 3
    assert {shape.auction_cell for shape in every} == set(ENDS)


def test_none_can_end_without_the_link() -> None:
    """Wherever a settlement is released, a leg is left that only the other end can take."""
    assert all(stop(shape) for shape in shapes())


def test_the_doomed_are_stopped_before_their_pivot() -> None:
    """Only until then does a deadline compensate; one has paid nothing yet, others have money in transit."""
    stops = [stop(shape) for shape in shapes() if shape.doomed]
    pivot = next(spec.leg for spec in SETTLEMENT_LEGS if spec.pivot)
    assert all(LEGS.index(leg) < LEGS.index(pivot) for leg in stops)
    assert Counter(stops) == {"pin": 1, "credit-in": 2}


# --- checks of the balances of several cells, and counts of double effects: what they apply, and what they detect -----


if TYPE_CHECKING:
    from lab.market import Market

HERE, THERE = "us-east", "eu-west"


class Logs:
    """Replaces a market; its cells write the given events."""

    def __init__(self) -> None:
        self.cells = {HERE: HERE, THERE: THERE}
        self.written: dict[str, list[event_pb2.Event]] = defaultdict(list)

    async def log(self, cell: str, from_position: int) -> list[event_pb2.Event]:
        return self.written[cell][from_position - 1 :]

    def write(
        self,
        cell: str,
        *postings: tuple[str, int],
        knows: int = 0,
        event_type: str = "MOVED",
        payload: dict[str, str] | None = None,
        leg: dict[str, str] | None = None,
    ) -> None:
        """`knows`: the highest position of the other cell's log that the event may depend on."""
        position = len(self.written[cell]) + 1
        other = THERE if cell == HERE else HERE
        self.written[cell].append(
            event_pb2.Event(
                cell=cell,
                position=position,
                event_id=str(uuid4()),
                event_type=event_type,
                vector_clock={cell: position, other: knows},
                payload_json=json.dumps(payload or {}),
                metadata_json=json.dumps({"leg": leg} if leg else {}),
                postings=[
                    Posting(account=account, currency="USD", amount_minor=amount) for account, amount in postings
                ],
            )
        )

    def deposit(self, cell: str, amount: int) -> None:
        payload = {"currency": "USD", "amount_minor": str(amount)}
        moves = (("external", -amount), ("users/a/available", amount))
        self.write(cell, *moves, event_type="DEPOSITED", payload=payload)

    def send(self, cell: str, to: str, amount: int) -> None:
        moves = (("users/a/available", -amount), (f"clearing/{to}", amount))
        self.write(cell, *moves, payload={"clearing_id": "one"})

    def receive(self, cell: str, sender: str, amount: int, knows: int) -> None:
        moves = ((f"clearing/{sender}", -amount), ("users/b/available", amount))
        self.write(cell, *moves, knows=knows, payload={"clearing_id": "one"})

    def keeper(self) -> Bookkeeper:
        return Bookkeeper(cast("Market", self))


async def test_money_between_cells_is_counted_as_in_transit() -> None:
    """Sent and not received, it is in neither cell and not lost either; once received, nothing is in transit."""
    logs = Logs()
    logs.deposit(HERE, 100)
    logs.send(HERE, THERE, 40)
    keeper = logs.keeper()
    observation = await keeper.observe()
    assert (observation.movements, observation.in_transit_minor, observation.wrong) == (1, 40, ())
    logs.receive(THERE, HERE, 40, knows=2)
    observation = await keeper.observe()
    assert (observation.movements, observation.in_transit_minor, observation.wrong) == (0, 0, ())


async def test_what_follows_from_what_is_not_seen_yet_waits() -> None:
    """An answer is not applied before its question, whichever cell was read first."""
    logs = Logs()
    logs.deposit(HERE, 100)
    logs.receive(THERE, HERE, 40, knows=2)
    keeper = logs.keeper()
    observation = await keeper.observe()
    assert observation.wrong == ()
    assert (len(keeper.logs[HERE]), len(keeper.logs[THERE])) == (1, 0)
    logs.send(HERE, THERE, 40)
    observation = await keeper.observe()
    assert observation.wrong == ()
    assert (len(keeper.logs[HERE]), len(keeper.logs[THERE])) == (2, 1)


async def test_money_that_was_never_sent_is_caught() -> None:
    """Money without a source is detected at once, in transit or not."""
    logs = Logs()
    logs.receive(THERE, HERE, 40, knows=0)
    assert any("never sent" in line for line in (await logs.keeper().observe()).wrong)


async def test_money_that_vanishes_is_caught() -> None:
    """A posting without a counterpart violates conservation."""
    logs = Logs()
    logs.deposit(HERE, 100)
    logs.write(HERE, ("users/a/available", -1))
    keeper = logs.keeper()
    await keeper.observe()
    assert len(keeper.wrong) == 2
    assert keeper.wrong[0].startswith("look 1: us-east")


def test_an_effect_that_is_there_twice_is_caught() -> None:
    """The same leg in the same direction is one effect, wherever it happened; its compensation is another."""
    leg = {"saga_id": "s", "leg": "pin", "generation": "1", "direction": "action"}
    logs = Logs()
    logs.write(HERE, leg=leg)
    logs.write(HERE, leg={**leg, "direction": "compensation"})
    assert double_effects(logs.written) == []
    logs.write(THERE, leg=leg)
    assert double_effects(logs.written) == ["s pin 1 action: 2 times"]
