"""A party's new home is reported only by the cell that was asked about that party."""

import pytest

from cells.domain.commands import MoveParty
from cells.domain.sagas.saga_events import SagaPartyMoved, SettlementFacts
from cells.domain.sagas.saga_rules import leg_id_of
from cells.domain.values import Direction
from tests.unit.given import uid
from tests.unit.saga_market import SELLER, WINNER, Market


@pytest.mark.parametrize(("user", "believed"), [("ann", True), ("sue", False)])
def test_a_cell_says_where_its_own_user_has_gone(user: str, believed: bool) -> None:  # noqa: FBT001
    """Asked about the winner, a cell cannot redirect the seller's money."""
    market = Market()
    saga_id = market.won()
    world, saga = market.saga(saga_id)
    assert isinstance(saga.facts, SettlementFacts)
    assert (saga.facts.winner_cell, saga.facts.seller_cell) == (WINNER, SELLER)
    news = MoveParty(
        leg_id=leg_id_of(saga, saga_id), direction=Direction.ACTION, user_id=uid(user), cell="mallory", epoch=2
    )
    events = world.when(news)
    assert events == ([SagaPartyMoved(user_id=uid(user), cell="mallory", epoch=2)] if believed else [])
