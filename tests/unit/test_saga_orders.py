"""An operator's orders to a saga, as rules: pause, resume, compensate, and their refusals."""

from uuid import UUID

import pytest

from cells.domain.commands import ApplyLeg, CompensateSaga, PauseSaga, ResumeSaga
from cells.domain.refusals import SagaNotFound
from cells.domain.sagas import saga_refusals
from cells.domain.sagas.saga import Saga, SagaState
from cells.domain.sagas.saga_events import ReleaseFacts, SagaCompensationStarted, SagaPaused, SagaResumed
from cells.domain.sagas.saga_rules import failure_of
from cells.domain.values import Kind
from cells.encoding import codec
from tests.unit.given import World, only, uid
from tests.unit.saga_market import AUCTION, PRICE, SELLER, WINNER, Market


def pause(saga_id: UUID) -> PauseSaga:
    return PauseSaga(saga_id=saga_id, note="looking at it")


def resume(saga_id: UUID) -> ResumeSaga:
    return ResumeSaga(saga_id=saga_id, note="")


def compensate(saga_id: UUID) -> CompensateSaga:
    return CompensateSaga(saga_id=saga_id, note="a forged lamp")


def won_at(leg: str) -> tuple[Market, UUID, World]:
    """The settlement of a sale, with the leg next, and the cell that drives it."""
    market = Market()
    saga_id = market.won(leg)
    return market, saga_id, market.saga(saga_id)[0]


def saga_of(market: Market, saga_id: UUID) -> Saga:
    return market.saga(saga_id)[1]


@pytest.mark.parametrize("leg", ["pin", "credit-in", "ownership", "settle"])
def test_a_saga_is_paused_and_resumed_where_it_is(leg: str) -> None:
    """Neither changes its progress: the same leg is next, under the same id."""
    market, saga_id, home = won_at(leg)
    before = saga_of(market, saga_id)
    assert home.when(pause(saga_id)) == [SagaPaused(note="looking at it")]
    paused = saga_of(market, saga_id)
    assert (paused.paused, paused.state, paused.cursor) == (True, before.state, before.cursor)
    assert home.when(resume(saga_id)) == [SagaResumed(note="")]
    assert market.run(saga_id).state is SagaState.COMPLETED


def test_a_pause_splits_no_step() -> None:
    """A leg under way when the saga was paused is recorded with its result."""
    market, saga_id, home = won_at("credit-in")
    cell, command = market.command(saga_id)
    home.when(pause(saga_id))
    result = market.worlds[cell].decided(command).result
    market.heard(saga_id, command, result)
    saga = saga_of(market, saga_id)
    assert (saga.paused, saga.current and saga.current.leg) == (True, "ownership")


def test_what_makes_no_sense_is_refused() -> None:
    """Paused twice, resumed without a pause, ordered after the end, or unknown."""
    market, saga_id, home = won_at("pin")
    home.refuses(resume(saga_id), saga_refusals.SagaNotPaused)
    home.when(pause(saga_id))
    home.refuses(pause(saga_id), saga_refusals.SagaIsPaused)
    home.when(resume(saga_id))
    market.run(saga_id)
    for order in (pause(saga_id), resume(saga_id), compensate(saga_id)):
        home.refuses(order, saga_refusals.SagaHasEnded, "COMPLETED")
    home.refuses(pause(uid("nobody's")), SagaNotFound)


@pytest.mark.parametrize("leg", ["pin", "escrow-in", "credit-in", "ownership"])
def test_an_operator_turns_a_saga_back_before_its_pivot(leg: str) -> None:
    """Everything is undone: the money is back, and the log names the operator and the reason."""
    market, saga_id, home = won_at(leg)
    event = only(SagaCompensationStarted, home.when(compensate(saga_id)))
    assert (event.failure_reason, event.failure_message) == ("CALLED_OFF", "a forged lamp")
    home.refuses(compensate(saga_id), saga_refusals.SagaTurnedBack)
    assert market.run(saga_id).state is SagaState.COMPENSATED
    assert market.buckets(WINNER, "ann") == (1_000, 0, 0)
    assert market.in_transit() == {}


@pytest.mark.parametrize("leg", ["settle", "notify-seller"])
def test_past_the_pivot_there_is_no_way_back(leg: str) -> None:
    """The refusal names the pivot."""
    market, saga_id, home = won_at(leg)
    home.refuses(compensate(saga_id), saga_refusals.SagaPastPivot, "ownership")
    assert market.run(saga_id).state is SagaState.COMPLETED


def test_a_release_has_no_way_back() -> None:
    """It is itself an undo."""
    market = Market()
    market.run(market.bid(300))
    market.run(market.bid(500))
    [release] = market.started(ReleaseFacts)
    market.saga(release)[0].refuses(compensate(release), saga_refusals.SagaHasNoWayBack, "RELEASE")


@pytest.mark.parametrize("leg", ["escrow-out", "escrow-in", "credit-out", "credit-in"])
def test_an_answer_that_crosses_the_order_is_undone_too(leg: str) -> None:
    """The leg was taken, and its saga compensated before that was recorded: the compensation finds and undoes it."""
    market, saga_id, home = won_at(leg)
    cell, command = market.command(saga_id)
    assert isinstance(command, ApplyLeg)
    home.when(compensate(saga_id))
    result = market.worlds[cell].decided(command).result
    market.heard(saga_id, command, result)
    assert saga_of(market, saga_id).state is SagaState.COMPENSATING
    assert market.run(saga_id).state is SagaState.COMPENSATED
    assert market.buckets(WINNER, "ann") == (1_000, 0, 0)
    assert market.buckets(SELLER, "sue") == (0, 0, 0)
    assert market.in_transit() == {}


def test_a_pivot_that_crosses_the_order_wins() -> None:
    """Its cell answers that it was done: the saga goes forward."""
    market = Market()
    bid = market.bid(PRICE)
    market.run_until(bid, "submit")
    cell, command = market.command(bid)
    market.saga(bid)[0].when(compensate(bid))
    market.worlds[cell].decided(command)
    assert market.run(bid).state is SagaState.COMPLETED


def test_a_bidder_hears_that_the_bid_was_called_off() -> None:
    """As a refusal that can be rebuilt from the stored form."""
    market = Market()
    bid = market.bid(PRICE)
    market.saga(bid)[0].when(compensate(bid))
    saga = market.run(bid)
    assert saga.state is SagaState.COMPENSATED
    assert failure_of(saga).message == f"saga {bid} was called off by an operator"
    assert market.buckets(WINNER, "ann") == (1_000, 0, 0)


def test_a_paused_saga_is_stored_and_one_of_an_older_process_is_not_paused() -> None:
    """The pause is part of the stored state for a successor; states from before this feature have none."""
    market = Market()
    saga_id = market.won()
    home, before = market.saga(saga_id)
    home.when(pause(saga_id))
    stored = codec.decode_state(Kind.SAGA, codec.encode_state(saga_of(market, saga_id)))
    assert isinstance(stored, Saga)
    assert stored.paused
    assert codec.decode_state(Kind.SAGA, codec.encode_state(before).replace('"paused":false,', "")) == before
    assert home.cell == AUCTION
