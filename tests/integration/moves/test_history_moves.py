"""The past of a user who has moved: each home answers for its own time, and none for another's."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple
from uuid import UUID

import pytest

from cells.audit.history.moments import Moment
from cells.audit.history.questions import Balances, History, Past
from cells.domain.account.account import Account, Balance
from cells.domain.audit.refusals import AtHomeElsewhere, NotThereYet, WasMoving
from cells.domain.commands import Deposit, Reserve
from cells.domain.decision import LedgerPolicy
from cells.domain.moves.refusals import MoveExpired
from cells.domain.time.hlc import Stamp
from cells.domain.values import Money
from tests.doubles.failpoints import Failpoints
from tests.doubles.history import MemoryHistoryLookups
from tests.integration.moves.moves_rig import TURNING_BACK, allow_ms, asked, cut_off_at, do, move, until_logged
from tests.local_cells import deposit, open_user
from tests.saga_world import AWAY, HERE, THIRD, World


def history_of(town: World, name: str) -> History:
    cell, lookups = town.cells[name], MemoryHistoryLookups(town.stores[name])
    return History(
        cell=name, store=cell.store, time=cell.time, lookups=lookups, deciding=set, placed=cell.routing.placed
    )


async def test_each_home_answers_for_its_own_time(town: World) -> None:
    """Before the move the old one, after it the new one; the other names the one to ask. With money, and without."""
    for amount in (1_000, 0):
        ann = await open_user(town.cells[HERE], amount, town.directory)
        before, before_away = [Moment(position=(await town.stores[name].head()).position) for name in (HERE, AWAY)]
        await move(town, ann, AWAY)
        await town.settled()
        await do(town, AWAY, deposit(ann, 5), ann)
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
    """The old home names the new one, which knows when the user arrived. Where nobody arrived, the old one says so."""
    ann = await traveller(town)
    turned_back, departed = [
        row.position for row in town.stores[HERE].log if row.event_type == "BALANCE_DEPARTED" and '"USD"' in row.payload
    ]
    history = history_of(town, HERE)
    with pytest.raises(WasMoving):
        await history.balances(ann, Moment(position=turned_back))
    with pytest.raises(AtHomeElsewhere):
        await history.balances(ann, Moment(position=departed))


async def traveller(town: World) -> UUID:
    """A user with two currencies and a hold: departs and comes back, then moves through all cells and back again."""
    here = town.cells[HERE]
    ann = await open_user(here, 1_000, town.directory)
    eur = Deposit(user_id=ann, amount=Money("EUR", 70), external_reference="eur")
    await here.execute(asked(eur, ann))
    await here.execute(asked(Reserve(user_id=ann, amount=Money("USD", 30), expire_time_ms=None), ann))
    allow_ms(town, 600)
    cut_off_at(town, "depart")
    moving = asyncio.create_task(move(town, ann, AWAY))
    await until_logged(town, HERE, TURNING_BACK)
    here.failpoints = Failpoints()
    town.cable.cut.clear()
    with pytest.raises(MoveExpired):
        await moving
    here.writer._decider.policy = LedgerPolicy()
    for at, to in ((HERE, AWAY), (AWAY, THIRD), (THIRD, HERE)):
        await move(town, ann, to, at=at)
        await town.settled()
        await do(town, to, deposit(ann, 5), ann)
    return ann


class Answer(NamedTuple):
    """The balances, or the reason of a refusal and the cell that it names."""

    balances: Mapping[str, Balance] = {}
    refused: str = ""
    home: str = ""


async def told(read: Callable[[UUID, Moment], Awaitable[Balances | Past[Account]]], user: UUID, at: Moment) -> Answer:
    try:
        found = await read(user, at)
    except (AtHomeElsewhere, NotThereYet, WasMoving) as refused:
        return Answer(refused=refused.reason, home=str(refused.facts.get("home", "")))
    return Answer(found.balances if isinstance(found, Balances) else found.state.balances)


async def test_balance_and_account_agree_at_every_position(town: World) -> None:
    """Also between the events of one commit, by which a user departs or arrives."""
    ann = await traveller(town)
    for name, store in town.stores.items():
        history = history_of(town, name)
        for position in range(1, len(store.log) + 1):
            at = Moment(position=position)
            where = f"{name}/{position} {store.log[position - 1].event_type}"
            assert await told(history.balances, ann, at) == await told(history.account, ann, at), where


async def test_at_every_moment_all_homes_lead_to_one_answer(town: World) -> None:
    """From whichever home a client begins, the cells that are named lead to the user's home then, in no circle."""
    ann = await traveller(town)
    histories = {name: history_of(town, name) for name in town.stores}
    opened = next(row for row in town.stores[HERE].log if row.aggregate_id == ann)
    stamps = {Stamp(row.hlc_physical, row.hlc_logical) for store in town.stores.values() for row in store.log}
    answers = set[str]()
    for stamp in sorted(each for each in stamps if each >= (opened.hlc_physical, opened.hlc_logical)):
        found = []
        for name, history in histories.items():
            answer = await told(history.balances, ann, Moment(stamp=stamp))
            for _ in histories:
                if answer.home:
                    name = answer.home  # noqa: PLW2901
                    answer = await told(histories[name].balances, ann, Moment(stamp=stamp))
            found.append((name if not answer.refused else answer.refused, answer))
        assert found.count(found[0]) == len(found), (stamp, found)
        answers.add(found[0][0])
    assert answers == {*town.stores, WasMoving.reason}
