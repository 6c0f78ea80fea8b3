"""Sagas over three cells, as rules alone: every leg, every refusal, every late or early message."""

from types import UnionType
from typing import Any, get_args, get_type_hints
from uuid import UUID

import pytest

from cells.domain.auction.auction import AuctionState
from cells.domain.commands import Command, LegAction, MoveParty, SkipLeg
from cells.domain.decide import RULES
from cells.domain.events import PartyNotified, SettlementFailed
from cells.domain.record import fields_of, replace
from cells.domain.refusals import BidTooLow, LegCancelled
from cells.domain.sagas import saga_events
from cells.domain.sagas.definition import DEFINITIONS, EFFECTS, SAGAS, Flow, SagaKind
from cells.domain.sagas.leg import LegMark, LegResult
from cells.domain.sagas.saga import TRANSITIONS, TRIGGERS, SagaState, Trigger
from cells.domain.sagas.saga_events import NoticeFacts, ReleaseFacts
from cells.domain.sagas.saga_rules import DEADLINE_EXCEEDED, leg_id_of
from cells.domain.values import Direction, Kind, LegId
from tests.unit.given import only, uid
from tests.unit.saga_market import AUCTION, BEFORE_PIVOT, PRICE, SELLER, WINNER, Market, record


def test_a_settlement_moves_money_and_asset() -> None:
    """The winner pays, the seller gets the price less the fee, the winner has the asset, nothing is in transit."""
    market = Market()
    saga = market.run(market.won())
    assert saga.state is SagaState.COMPLETED
    assert market.buckets(WINNER, "ann") == (300, 0, 0)
    assert market.buckets(SELLER, "sue") == (PRICE - 17, 0, 0)
    assert (market.lamp().owner_id, market.lamp().owner_cell) == (uid("ann"), WINNER)
    assert market.auction().state is AuctionState.SETTLED
    assert market.auction().escrow_minor == 0
    assert market.in_transit() == {}


def test_every_leg_asked_twice_happens_once() -> None:
    """A duplicate gets the first answer and leaves no event."""
    once, twice = Market(), Market()
    once.run(once.won())
    saga_id = twice.won()
    twice.run(saga_id, times=2)
    assert [len(world.log) for world in once.worlds.values()] == [len(world.log) for world in twice.worlds.values()]
    assert twice.buckets(SELLER, "sue") == once.buckets(SELLER, "sue")


@pytest.mark.parametrize("leg", BEFORE_PIVOT)
def test_a_definite_refusal_before_the_pivot_undoes_everything(leg: str) -> None:
    """Compensation runs in reverse from the refused leg on, and includes it."""
    market = Market()
    saga = market.run(market.won(), refuse=leg)
    assert (saga.state, saga.failure_reason) == (SagaState.COMPENSATED, "TEST_REFUSAL")
    market.assert_nothing_happened()
    assert len(market.logged(SettlementFailed)) == len(market.logged(saga_events.SagaCompensated)) == 1


@pytest.mark.parametrize("given_up", [False, True])
def test_both_parties_are_told_of_a_failed_settlement(*, given_up: bool) -> None:
    """Each in their home cell, by a saga that can be given up; a successful settlement has none."""
    market = Market()
    market.run(market.won(), refuse="credit-in")
    notices = market.started(NoticeFacts)
    facts = [only(NoticeFacts, [market.saga(saga_id)[1].facts]) for saga_id in notices]
    assert sorted((each.notice, each.user_id, each.user_cell) for each in facts) == [
        ("SETTLEMENT_FAILED_FOR_SELLER", uid("sue"), SELLER),
        ("SETTLEMENT_FAILED_FOR_WINNER", uid("ann"), WINNER),
    ]
    for saga_id in notices:
        if given_up:
            home, saga = market.saga(saga_id)
            home.decided(SkipLeg(leg_id=leg_id_of(saga, saga_id), failure_reason="NOTICE_NOT_SENT"))
        assert market.run(saga_id, times=2).state is SagaState.COMPLETED
    for cell, user in ((WINNER, "ann"), (SELLER, "sue")):
        notified = [ref.id for ref, event in market.worlds[cell].log if isinstance(event, PartyNotified)]
        assert notified.count(uid(user)) == (0 if given_up else 1)
    market.assert_nothing_happened()
    happy = Market()
    happy.run(happy.won())
    assert happy.started(NoticeFacts) == []


@pytest.mark.parametrize("leg", BEFORE_PIVOT[:-1])
def test_compensation_covers_a_leg_whose_reply_was_lost(leg: str) -> None:
    """The leg was applied, its reply was lost, and the deadline passed: it is undone all the same."""
    market = Market()
    saga_id = market.won(leg)
    if market.command(saga_id)[0] != AUCTION:
        market.take(saga_id)
    market.run_out(saga_id)
    assert market.run(saga_id).state is SagaState.COMPENSATED
    market.assert_nothing_happened()


@pytest.mark.parametrize("leg", BEFORE_PIVOT)
def test_an_action_after_its_compensation_is_refused(leg: str) -> None:
    """The tombstone stops a call that was in transit all the time."""
    market = Market()
    saga_id = market.won(leg)
    cell, late = market.command(saga_id)
    market.run(saga_id, refuse=leg)
    assert len(market.logged(saga_events.LegTombstoned, cell)) == (0 if leg == "pin" else 1)
    market.worlds[cell].refuses(late, LegCancelled)
    market.assert_nothing_happened()


def test_the_deadline_is_judged_by_the_deciding_batch() -> None:
    """Before the deadline, a command that claims it has passed changes nothing."""
    market = Market()
    saga_id = market.won()
    market.fail(saga_id, DEADLINE_EXCEEDED)
    assert market.saga(saga_id)[1].state is SagaState.RUNNING
    market.run_out(saga_id)
    assert market.saga(saga_id)[1].state is SagaState.COMPENSATING


def test_after_the_pivot_there_is_only_forward() -> None:
    """Neither a deadline nor a refusal compensates a committed saga."""
    market = Market()
    saga_id = market.won("settle")
    market.run_out(saga_id)
    market.fail(saga_id, "TEST_REFUSAL")
    assert market.saga(saga_id)[1].state is SagaState.COMMITTED
    assert market.run(saga_id).state is SagaState.COMPLETED


def test_a_best_effort_leg_can_be_skipped() -> None:
    """A mail that cannot be sent does not delay the settlement."""
    market = Market()
    saga_id = market.won("notify-winner")
    skip = SkipLeg(leg_id=LegId(saga_id, "notify-winner", 1), failure_reason="no mail")
    market.worlds[AUCTION].decided(skip)
    assert market.run(saga_id).state is SagaState.COMPLETED


def test_a_remote_bid_that_is_refused_frees_its_hold() -> None:
    """The refusal from the auction's cell is the command's answer."""
    market = Market()
    market.run(market.bid(PRICE))
    saga = market.run(market.bid(PRICE))
    assert (saga.state, saga.failure_reason) == (SagaState.COMPENSATED, BidTooLow.reason)
    assert market.buckets(WINNER, "ann") == (300, PRICE, 0)


def test_an_unknown_pivot_is_settled_by_asking_to_cancel() -> None:
    """Accepted, reply lost, time over: the cancellation is answered with done, and the bid stands."""
    market = Market()
    saga_id = market.bid(PRICE)
    market.take(saga_id)
    market.run_out(saga_id)
    assert market.run(saga_id).state is SagaState.COMPLETED
    assert market.buckets(WINNER, "ann") == (300, PRICE, 0)


def test_an_unsubmitted_bid_is_cancelled_for_good() -> None:
    """It never arrived, time is over: a tombstone stays, the hold is released, the late submission is refused."""
    market = Market()
    saga_id = market.bid(PRICE)
    cell, late = market.command(saga_id)
    market.run_out(saga_id)
    assert market.run(saga_id).state is SagaState.COMPENSATED
    market.worlds[cell].refuses(late, LegCancelled)
    assert market.buckets(WINNER, "ann") == (1_000, 0, 0)


def test_an_outbid_remote_bidder_gets_the_hold_back_once() -> None:
    """The release names its bid: after a higher bid of the same person it frees nothing of that one."""
    market = Market()
    market.run(market.bid(300))
    market.run(market.bid(500))
    [release] = market.started(ReleaseFacts)
    assert market.run(release, times=2).state is SagaState.COMPLETED
    assert market.buckets(WINNER, "ann") == (500, 500, 0)


@pytest.mark.parametrize("other", ["outbid by the winner's own", "too late"])
def test_another_bid_of_the_winner_that_comes_to_nothing_leaves_the_hold_pinned(other: str) -> None:
    """Its release may come between the settlement's legs: it frees only its own part, and unpins nothing."""
    market = Market()
    market.run(market.bid(300))
    saga_id = market.won()
    freed = market.bid(800) if other == "too late" else market.started(ReleaseFacts)[0]
    market.run_until(saga_id, "escrow-out")
    market.run(freed)
    assert market.run(saga_id).state is SagaState.COMPLETED
    assert market.buckets(WINNER, "ann") == (300, 0, 0)


def test_each_saga_has_one_terminal_event() -> None:
    """Progress after the end is ignored."""
    market = Market()
    saga_id = market.won("notify-seller")
    _, command = market.command(saga_id)
    market.run(saga_id)
    late = record(command, LegMark(LegResult.APPLIED, uid("late")))
    assert market.worlds[AUCTION].when(late) == []
    assert len(market.logged(saga_events.SagaCompleted)) == 1


def test_the_barrier_is_what_stops_a_double_effect() -> None:
    """Ablation: with the leg's mark removed, the same call happens twice."""
    market = Market()
    saga_id = market.won("credit-in")
    cell, command = market.command(saga_id)
    world = market.worlds[cell]
    world.decided(command)
    world.states = {ref: state for ref, state in world.states.items() if ref.kind is not Kind.LEG}
    world.decided(command)
    assert market.buckets(SELLER, "sue")[2] == 2 * PRICE
    assert market.in_transit() != {}


def test_a_pair_that_the_table_lacks_raises() -> None:
    """The state machine never falls through."""
    market = Market()
    saga_id = market.won()
    with pytest.raises(KeyError):
        market.worlds[AUCTION].given(Kind.SAGA, saga_id, saga_events.SagaCompleted())
    assert replace(market.saga(saga_id)[1], state=SagaState.COMPLETED).ended
    assert {state for state, _ in TRANSITIONS} == {SagaState.RUNNING, SagaState.COMMITTED, SagaState.COMPENSATING}
    assert {trigger for _, trigger in TRANSITIONS} == set(Trigger)


def test_each_definition_has_one_pivot_and_unique_legs() -> None:
    """The rules' assumptions hold for every defined saga."""
    for specs in DEFINITIONS.values():
        assert sum(spec.pivot for spec in specs) == 1
        assert len({spec.leg for spec in specs}) == len(specs)
    assert DEFINITIONS[SagaKind.REMOTE_BID, 1][-1].pivot
    assert {Direction.ACTION.value, Direction.COMPENSATION.value} == {"action", "compensation"}


@pytest.mark.parametrize(
    ("table", "union"),
    [
        (RULES, Command),
        (EFFECTS, LegAction),
        (SAGAS, saga_events.SagaFacts),
        (TRIGGERS | {saga_events.SagaStarted: None}, saga_events.SagaEvents),
    ],
    ids=["rules", "effects", "sagas", "triggers"],
)
def test_a_table_has_exactly_the_types_of_its_union(table: dict[type, object], union: UnionType) -> None:
    """A command without a rule, or an action without an effect, would be found only when it is first decided."""
    assert set(table) == set(get_args(union))


@pytest.mark.parametrize(("kind", "version"), DEFINITIONS)
def test_each_leg_of_each_definition_has_its_action(kind: SagaKind, version: int) -> None:
    """Its fields follow from the saga's facts."""
    [saga] = [each for each in SAGAS.values() if each.kind is kind]
    hints = get_type_hints(saga.facts)
    values: dict[Any, Any] = {int: 1, UUID: uid("any")}
    content: dict[str, Any] = {name: values.get(hints[name], name) for name in fields_of(saga.facts)}
    facts: Any = saga.facts
    for spec in saga.versions[version]:
        assert isinstance(spec.action(Flow(facts(**content), uid("saga"), 1)), spec.effect.action)


@pytest.mark.parametrize(("user", "believed"), [("ann", True), ("sue", False)])
def test_a_cell_says_where_its_own_user_has_gone(user: str, believed: bool) -> None:  # noqa: FBT001
    """Asked about the winner, a cell cannot redirect the seller's money."""
    market = Market()
    saga_id = market.won()
    world, saga = market.saga(saga_id)
    facts = only(saga_events.SettlementFacts, [saga.facts])
    assert (facts.winner_cell, facts.seller_cell) == (WINNER, SELLER)
    news = MoveParty(
        leg_id=leg_id_of(saga, saga_id), direction=Direction.ACTION, user_id=uid(user), cell="mallory", epoch=2
    )
    assert world.when(news) == (
        [saga_events.SagaPartyMoved(user_id=uid(user), cell="mallory", epoch=2)] if believed else []
    )
