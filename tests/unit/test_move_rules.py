"""A home's answers for a user who is moving to another one."""

import pytest

from cells.domain.commands import RegisterAsset
from cells.domain.events import AccountOpened
from cells.domain.moves.commands import BeginMove
from cells.domain.moves.events import AccountDeparted, AccountLeft, AccountMoveAnnounced
from cells.domain.moves.refusals import MoveUnderWay, UserMoving
from cells.domain.refusals import WrongCell
from cells.domain.values import Kind
from tests.unit.given import World, uid
from tests.unit.test_auction_rules import HERE, THERE


def test_nothing_is_refused_for_good_between_departure_and_arrival() -> None:
    """A refusal stored then would stay behind, and the new home would answer the same command differently."""
    world = World(cell=HERE).given(Kind.ACCOUNT, "ann", AccountOpened(home_epoch=1))
    announced = AccountMoveAnnounced(saga_id=uid("move"), from_cell=HERE, to_cell=THERE, epoch=2)
    for event, refusal in (
        (announced, MoveUnderWay),
        (AccountDeparted(saga_id=uid("move"), to_cell=THERE), UserMoving),
        (AccountLeft(saga_id=uid("move"), to_cell=THERE, epoch=2), WrongCell),
    ):
        world.given(Kind.ACCOUNT, "ann", event)
        with pytest.raises(refusal) as caught:
            world.when(BeginMove(user_id=uid("ann"), to_cell=THERE, region=None))
        assert caught.value.final is (refusal is MoveUnderWay)


def test_a_departed_owner_registers_no_asset_here() -> None:
    """The outcome would stay behind, and the same command would register another asset at the new home."""
    world = World(cell=HERE).given(Kind.ACCOUNT, "ann", AccountOpened(home_epoch=1))
    world.given(Kind.ACCOUNT, "ann", AccountMoveAnnounced(saga_id=uid("move"), from_cell=HERE, to_cell=THERE, epoch=2))
    world.given(Kind.ACCOUNT, "ann", AccountDeparted(saga_id=uid("move"), to_cell=THERE))
    with pytest.raises(UserMoving):
        world.when(RegisterAsset(owner_id=uid("ann"), owner_cell=HERE, description="a lamp"))
    world.when(RegisterAsset(owner_id=uid("ann"), owner_cell=THERE, description="a lamp, kept here by name"))
