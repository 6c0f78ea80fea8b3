"""Moves that are sent again, at whichever home, and moves of a user who is not at home as the sender believed."""

import asyncio
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from cells.domain.moves.commands import BeginMove
from cells.domain.moves.refusals import HomeChanged
from cells.domain.record import replace
from cells.domain.refusals import Refused
from cells.store.ports import Batch, StoreUnavailable
from tests.doubles.failpoints import Failpoints
from tests.integration.moves.moves_rig import TURNING_BACK, allow_ms, asked, do, logged, move, refused
from tests.local_cells import available, open_user, until
from tests.saga_world import AWAY, HERE, THIRD, World
from tests.simulation.books import WatchedStore

if TYPE_CHECKING:
    from cells.requests import Outcome


async def test_a_move_that_is_sent_again_after_the_next_one_moves_nobody(town: World) -> None:
    """At whichever home: each knows the commands that its users were moved by, before they came and since."""
    ann, ids = await open_user(town.cells[HERE], 1_000, town.directory), (uuid4(), uuid4())
    first = await move(town, ann, AWAY, command_id=ids[0])
    second = await move(town, ann, THIRD, at=AWAY, command_id=ids[1])
    for at in (HERE, AWAY, THIRD):
        again = await move(town, ann, AWAY, at=at, command_id=ids[0])
        assert (again.result, again.replayed) == (first.result, True)
    assert (await move(town, ann, THIRD, at=THIRD, command_id=ids[1])).result == second.result
    assert await available(town.cells[THIRD], ann) == 1_000


async def test_a_move_begins_under_the_epoch_that_it_names(town: World) -> None:
    """The user has moved there and back meanwhile: a home is not the same one as before."""
    ann = await open_user(town.cells[HERE], 1_000, town.directory)
    late = BeginMove(user_id=ann, to_cell=THIRD, region=None, from_epoch=1)
    await move(town, ann, AWAY)
    await move(town, ann, HERE, at=AWAY)
    changed = await refused(town.cells[HERE], late, ann)
    assert isinstance(changed, HomeChanged)
    assert changed.facts["epoch"] == 3
    moved = await do(town, HERE, replace(late, from_epoch=3), ann)
    assert moved.result.epoch == "4"


async def test_a_move_whose_answer_is_forgotten_begins_a_saga_of_its_own(town: World) -> None:
    """Its first saga was of another home: the user moves once more, and no leg is taken for one that was taken."""
    ann, command_id = await open_user(town.cells[HERE], 1_000, town.directory), uuid4()
    first = await move(town, ann, AWAY, command_id=command_id)
    await move(town, ann, THIRD, at=AWAY)
    town.stores[THIRD].kept_outcomes.clear()
    town.books.commands.clear()
    again = await move(town, ann, AWAY, at=THIRD, command_id=command_id)
    assert again.result.saga_id != first.result.saga_id
    assert await available(town.cells[AWAY], ann) == 1_000


async def test_a_move_that_is_called_off_too_late_is_known_at_the_new_home(
    town: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database there is away after the arrival's commit, and by the time it is back the move's time is up."""
    allow_ms(town, 300)
    ann, command_id = await open_user(town.cells[HERE], 1_000, town.directory), uuid4()
    settle = WatchedStore.settle

    async def away(self: WatchedStore, user_id: UUID) -> None:
        if not logged(town, HERE, TURNING_BACK):
            raise StoreUnavailable("nobody answers")
        await settle(self, user_id)

    monkeypatch.setattr(WatchedStore, "settle", away)
    first = await move(town, ann, AWAY, command_id=command_id)
    assert logged(town, HERE, TURNING_BACK)
    again = await move(town, ann, AWAY, at=AWAY, command_id=command_id)
    assert (again.result, again.replayed) == (first.result, True)


async def test_a_move_is_known_at_the_new_home_as_soon_as_the_user_is(
    town: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sent again while the arrival commits, and after the commit before anything else: as if all ended there."""
    ann, command_id = await open_user(town.cells[HERE], 1_000, town.directory), uuid4()
    append, settle, writer = WatchedStore.append, WatchedStore.settle, town.cells[AWAY].writer
    again: list[asyncio.Task[Outcome]] = []

    def send_again() -> None:
        again.append(asyncio.create_task(move(town, ann, AWAY, at=AWAY, command_id=command_id)))

    def is_decided() -> bool:
        answers = [pending for group in writer.batches() for pending, _ in group.answers]
        return any(pending.request.command_id == command_id for pending in answers)

    async def slow(self: WatchedStore, batch: Batch) -> None:
        if any(row.event_type == "ACCOUNT_ARRIVED" for row in batch.events):
            send_again()
            await until(is_decided)
        await append(self, batch)

    async def cut_off(self: WatchedStore, user_id: UUID) -> None:
        send_again()
        await asyncio.wait(again)
        await settle(self, user_id)

    monkeypatch.setattr(WatchedStore, "append", slow)
    monkeypatch.setattr(WatchedStore, "settle", cut_off)
    first = await move(town, ann, AWAY, command_id=command_id)
    assert len(again) >= 2
    for answer in await asyncio.gather(*again):
        assert (answer.result, answer.replayed) == (first.result, True)


async def test_two_operators_may_use_one_id_after_a_move_was_called_off(town: World) -> None:
    """The user is where they were, under the same epoch: the second move is none of the first one's."""
    ann, command_id = await open_user(town.cells[HERE], 1_000, town.directory), uuid4()
    begin = asked(BeginMove(user_id=ann, to_cell=AWAY, region=None), ann, command_id=command_id)
    town.cells[HERE].failpoints = Failpoints(frozenset({"refuse/depart/action"}))
    with pytest.raises(Refused):
        await town.cells[HERE].execute(replace(begin, principal="operator/one"))
    town.cells[HERE].failpoints = Failpoints()
    # They go by the id alone.
    town.books.commands.clear()
    moved = await town.cells[HERE].execute(replace(begin, principal="operator/two"))
    assert moved.result.cell == AWAY
    assert await available(town.cells[AWAY], ann) == 1_000
