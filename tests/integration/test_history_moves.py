"""The past of a user who has moved: each home answers for its own time, and none for another's."""

from collections.abc import AsyncIterator

import pytest

from cells.audit.history import History
from cells.audit.history_memory import MemoryHistoryLookups
from cells.audit.moments import Moment
from cells.domain.audit_refusals import AtHomeElsewhere, WasMoving
from tests.integration.test_moves import asked, move
from tests.local_cells import deposit, open_user
from tests.saga_world import AWAY, HERE, World, world


@pytest.fixture
async def town() -> AsyncIterator[World]:
    async with world() as here:
        yield here
        await here.settled()


def history_of(town: World, name: str) -> History:
    cell, lookups = town.cells[name], MemoryHistoryLookups(town.stores[name])
    return History(cell=name, store=cell.store, time=cell.time, lookups=lookups, deciding=set, placed=cell.placed)


async def test_each_home_answers_for_its_own_time(town: World) -> None:
    """Before the move the old one, after it the new one; the other names the one to ask. With money, and without."""
    for amount in (1_000, 0):
        ann = await open_user(town.cells[HERE], amount, town.directory)
        before, before_away = [Moment(position=(await town.stores[name].head()).position) for name in (HERE, AWAY)]
        await move(town, ann, AWAY)
        await town.settled()
        await town.cells[AWAY].execute(asked(deposit(ann, 5), ann))
        after, after_away = [Moment(position=(await town.stores[name].head()).position) for name in (HERE, AWAY)]
        here, away = history_of(town, HERE), history_of(town, AWAY)
        for history, known, unknown, home in ((here, before, after, AWAY), (away, after_away, before_away, HERE)):
            for read in (history.balances, history.account):
                await read(ann, known)
                with pytest.raises(AtHomeElsewhere) as caught:
                    await read(ann, unknown)
                assert caught.value.facts["home"] == home
        assert (await here.account(ann, before)).state.balance("USD").available_minor == amount
        assert (await away.balances(ann, after_away)).balances["USD"].available_minor == amount + 5


async def test_on_the_way_nobody_has_the_money(town: World) -> None:
    """Between departure and arrival it lies in clearing, and is told as neither home's."""
    ann = await open_user(town.cells[HERE], 1_000, town.directory)
    await move(town, ann, AWAY)
    await town.settled()
    departed = max(row.position for row in town.stores[HERE].log if row.event_type == "BALANCE_DEPARTED")
    with pytest.raises(WasMoving, match=f"clearing/{AWAY}"):
        await history_of(town, HERE).balances(ann, Moment(position=departed))
