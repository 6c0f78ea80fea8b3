"""Users who move between cells, through the real writers and engines, the books looking at every commit."""

import asyncio
from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest

from cells.audit.proofs.tree import inclusion_spans
from cells.audit.verify import tree
from cells.domain.commands import Capture, OpenAccount, Reserve, Transfer, Withdraw
from cells.domain.moves.commands import BeginMove
from cells.domain.moves.refusals import AlreadyAtHome, MoveExpired, MoveUnderWay, UserMoving
from cells.domain.refusals import ExternalReferenceUsed, InsufficientFunds, WrongCell
from cells.domain.values import Money
from cells.encoding import codec
from cells.moves.marks import NO_MARK
from cells.moves.user_bundle import MovedEvent
from cells.requests import CommandState, Outcome
from cells.store.ports import OutcomeRow
from tests.doubles.failpoints import Failpoints
from tests.doubles.store import MemoryStore
from tests.integration.moves.moves_rig import (
    TURNING_BACK,
    allow_ms,
    cut_off_at,
    do,
    history_exporter_of,
    move,
    refused,
    until_has,
    until_logged,
    without_books,
)
from tests.local_cells import READER, available, deposit, open_user, until
from tests.saga_world import AWAY, HERE, THIRD, World, world


async def test_a_user_moves_with_all_the_money(town: World) -> None:
    """Served at the new home under the next epoch; the old one sends everybody there, and the directory knows."""
    ann = await open_user(town.cells[HERE], 1_000, town.directory)
    moved = await move(town, ann, AWAY)
    assert (moved.result.cell, moved.result.epoch) == (AWAY, "2")
    account = (await town.cells[AWAY].account(ann)).state
    assert (account.balance("USD").available_minor, account.home_epoch) == (1_000, 2)
    assert [(home.cell, home.epoch) for home in account.earlier_homes] == [(HERE, 1)]
    error = await refused(town.cells[HERE], deposit(ann), ann)
    assert isinstance(error, WrongCell)
    assert (error.facts["cell"], error.facts["epoch"]) == (AWAY, 2)
    assert town.directory.homes[ann] == AWAY
    assert await town.cells[HERE].home_of(ann) == AWAY
    with pytest.raises(WrongCell):
        await town.cells[HERE].account(ann)
    assert isinstance(await refused(town.cells[HERE], OpenAccount(user_id=ann, home_epoch=1), ann), WrongCell)


async def test_there_and_back_and_on(town: World) -> None:
    """Each move has an epoch of its own, and history goes along from all homes."""
    ann = await open_user(town.cells[HERE], 1_000, town.directory)
    for at, to in ((HERE, AWAY), (AWAY, HERE), (HERE, THIRD)):
        await move(town, ann, to, at=at)
        await do(town, to, deposit(ann, 1), ann)
    account = (await town.cells[THIRD].account(ann)).state
    assert account.home_epoch == 4
    assert account.balance("USD").available_minor == 1_003
    assert [home.cell for home in account.earlier_homes] == [HERE, AWAY, HERE]
    for name in (HERE, AWAY):
        own = [row for row in town.stores[name].log if row.aggregate_id == ann]
        moved = [event.row for event in await town.stores[THIRD].moved_events(ann, limit=100) if event.cell == name]
        assert moved == own[: len(moved)]
        assert len(moved) == max(home.events for home in account.earlier_homes if home.cell == name)


async def test_a_command_is_done_once_whichever_cell_it_reaches(town: World) -> None:
    """Done at the old home, it is known at both; not done there, it is done at the new one, and known there."""
    ann = await open_user(town.cells[HERE], 1_000, town.directory)
    done, late = uuid4(), uuid4()
    gave, took = deposit(ann, 5), deposit(ann, 7)
    first = await do(town, HERE, gave, ann, command_id=done)
    await move(town, ann, AWAY)
    for name in (HERE, AWAY):
        again = await do(town, name, gave, ann, command_id=done)
        assert (again.result, again.replayed) == (first.result, True)
    assert isinstance(await refused(town.cells[HERE], took, ann, command_id=late), WrongCell)
    await do(town, AWAY, took, ann, command_id=late)
    assert (await do(town, AWAY, took, ann, command_id=late)).replayed
    assert await available(town.cells[AWAY], ann) == 1_012
    assert (await town.cells[AWAY].outcomes.status(done, READER)).state is CommandState.ACCEPTED


async def test_a_refusal_is_known_at_the_new_home(town: World) -> None:
    """Though the money is there by now: the answer stands, as it would have at the old home."""
    ann = await open_user(town.cells[HERE], 10, town.directory)
    command_id, wish = uuid4(), Withdraw(user_id=ann, amount=Money("USD", 50), external_reference="atm-1")
    assert isinstance(await refused(town.cells[HERE], wish, ann, command_id=command_id), InsufficientFunds)
    await move(town, ann, AWAY)
    await do(town, AWAY, deposit(ann, 1_000), ann)
    assert isinstance(await refused(town.cells[AWAY], wish, ann, command_id=command_id), InsufficientFunds)
    await move(town, ann, THIRD, at=AWAY)
    assert isinstance(await refused(town.cells[THIRD], wish, ann, command_id=command_id), InsufficientFunds)


async def test_a_deposit_does_not_count_twice_for_a_move(town: World) -> None:
    """The bank's reference is used up, also where another command brings it to the new home, and the one after."""
    ann = await open_user(town.cells[HERE], 0, town.directory)
    await do(town, HERE, deposit(ann, 5, reference="bank-1"), ann)
    await move(town, ann, AWAY)
    assert isinstance(await refused(town.cells[AWAY], deposit(ann, 5, reference="bank-1"), ann), ExternalReferenceUsed)
    await move(town, ann, THIRD, at=AWAY)
    assert isinstance(await refused(town.cells[THIRD], deposit(ann, 5, reference="bank-1"), ann), ExternalReferenceUsed)


async def test_holds_go_along(town: World) -> None:
    """One is captured at the new home; another expires there by the new home's own timer."""
    ann = await open_user(town.cells[HERE], 1_000, town.directory)
    bob = await open_user(town.cells[AWAY], 0, town.directory)
    held = await do(town, HERE, Reserve(user_id=ann, amount=Money("USD", 100), expire_time_ms=None), ann)
    soon_ms = town.cells[HERE].time.clock.wall_ms() + 700
    await do(town, HERE, Reserve(user_id=ann, amount=Money("USD", 30), expire_time_ms=soon_ms), ann)
    await move(town, ann, AWAY)
    assert len((await town.cells[AWAY].account(ann)).state.holds) == 2
    hold_id = held.result.hold_id
    await do(town, AWAY, Capture(user_id=ann, hold_id=hold_id, to_user_id=bob, amount_minor=None), ann)
    await until_has(town, AWAY, ann, 900)
    assert not (await town.cells[AWAY].account(ann)).state.holds
    assert await available(town.cells[AWAY], bob) == 100


async def test_of_two_moves_at_once_one_wins(town: World) -> None:
    """The other is refused at once, and says where the user goes."""
    ann = await open_user(town.cells[HERE], 1_000, town.directory)
    answers = await asyncio.gather(move(town, ann, AWAY), move(town, ann, THIRD), return_exceptions=True)
    won = [each for each in answers if isinstance(each, Outcome)]
    lost = [each for each in answers if isinstance(each, MoveUnderWay)]
    assert (len(won), len(lost)) == (1, 1)
    assert lost[0].facts["to_cell"] == won[0].result.cell
    cell = won[0].result.cell
    assert await available(town.cells[cell], ann) == 1_000
    assert isinstance(
        await refused(town.cells[cell], BeginMove(user_id=ann, to_cell=cell, region=None), ann), AlreadyAtHome
    )


async def test_the_same_move_asked_twice_is_one(town: World) -> None:
    """By its id: at the old home it is known."""
    ann, command_id = await open_user(town.cells[HERE], 10, town.directory), uuid4()
    first = await move(town, ann, AWAY, command_id=command_id)
    again = await move(town, ann, AWAY, command_id=command_id)
    assert (again.result, again.replayed) == (first.result, True)


async def test_a_move_to_a_cell_that_is_away_is_called_off(town: World) -> None:
    """The user is served at home all the while, and as ever afterwards."""
    history_exporter_of(town).valid_ms = 600
    ann = await open_user(town.cells[HERE], 1_000, town.directory)
    town.cable.cut.add(AWAY)
    moving = asyncio.create_task(move(town, ann, AWAY))
    for _ in range(10):
        await do(town, HERE, deposit(ann, 1), ann)
        await asyncio.sleep(0.02)
    with pytest.raises(MoveExpired):
        await moving
    assert (await town.cells[HERE].account(ann)).state.move is None
    assert await available(town.cells[HERE], ann) == 1_010


async def test_who_departed_and_cannot_arrive_comes_back(town: World) -> None:
    """Money and holds are as they were. In between the user is told to wait a moment, and nothing else."""
    allow_ms(town, 1_000)
    ann = await open_user(town.cells[HERE], 1_000, town.directory)
    await do(town, HERE, Reserve(user_id=ann, amount=Money("USD", 100), expire_time_ms=None), ann)
    before = (await town.cells[HERE].account(ann)).state
    cut_off_at(town, "depart")
    moving = asyncio.create_task(move(town, ann, AWAY))
    await until(lambda: AWAY in town.cable.cut)
    assert isinstance(await refused(town.cells[HERE], deposit(ann), ann), UserMoving)
    with pytest.raises(UserMoving):
        await town.cells[HERE].account(ann)
    await until_logged(town, HERE, TURNING_BACK)
    town.cable.cut.clear()
    with pytest.raises(MoveExpired):
        await moving
    after = (await town.cells[HERE].account(ann)).state
    assert (after.balances, after.holds, after.move) == (before.balances, before.holds, None)


async def test_an_arrival_whose_answer_is_lost_until_the_deadline_stands(town: World) -> None:
    """It is found done: there is only one home, the new one."""
    allow_ms(town, 600)
    ann = await open_user(town.cells[HERE], 1_000, town.directory)

    class Unheard(Failpoints):
        def hit(self, point: str, leg: str, direction: str) -> None:
            if (point, leg, direction) == ("after-commit", "arrive", "action"):
                town.cable.unheard.add("arrive")
                town.cable.cut.add(AWAY)

    town.cells[AWAY].failpoints = Unheard()
    moving = asyncio.create_task(move(town, ann, AWAY))
    await until_logged(town, HERE, TURNING_BACK)
    town.cells[AWAY].failpoints = Failpoints()
    town.cable.cut.clear()
    assert (await moving).result.cell == AWAY
    assert await available(town.cells[AWAY], ann) == 1_000


async def test_own_flows_end_before_the_departure(town: World) -> None:
    """A transfer under way is waited for, and its command's end is known at the new home; no new one begins."""
    ann = await open_user(town.cells[HERE], 1_000, town.directory)
    bob = await open_user(town.cells[THIRD], 0, town.directory)
    pay = Transfer(from_user_id=ann, to_user_id=bob, amount=Money("USD", 100))
    town.cable.cut.add(THIRD)
    paid = uuid4()
    paying = asyncio.create_task(do(town, HERE, pay, ann, command_id=paid))
    await until_logged(town, HERE, "REMOTE_TRANSFER_SENT")
    moving = asyncio.create_task(move(town, ann, AWAY))
    await until_logged(town, HERE, "ACCOUNT_MOVE_ANNOUNCED")
    await do(town, HERE, deposit(ann, 1), ann)
    assert isinstance(await refused(town.cells[HERE], pay, ann), UserMoving)
    town.cable.cut.clear()
    await asyncio.gather(paying, moving)
    assert (await town.cells[AWAY].outcomes.status(paid, READER)).state is CommandState.ACCEPTED
    assert await available(town.cells[AWAY], ann) == 901


async def test_a_payee_who_has_moved_gets_the_money(town: World) -> None:
    """From a neighbour of the old home, and from a third cell, whose directory is behind."""
    ann = await open_user(town.cells[HERE], 1_000, town.directory)
    cat = await open_user(town.cells[THIRD], 1_000, town.directory)
    bob = await open_user(town.cells[HERE], 0, town.directory)
    await move(town, bob, AWAY)
    await do(town, HERE, Transfer(from_user_id=ann, to_user_id=bob, amount=Money("USD", 10)), ann)
    town.directory.homes[bob] = HERE
    await do(town, THIRD, Transfer(from_user_id=cat, to_user_id=bob, amount=Money("USD", 5)), cat)
    assert await available(town.cells[AWAY], bob) == 15


async def test_the_history_is_proved_against_the_old_homes_tree(town: World) -> None:
    """Each event that was brought is a leaf of the tree that the old home signs: its root and a path prove it."""
    ann = await open_user(town.cells[HERE], 1_000, town.directory)
    await open_user(town.cells[HERE], 1_000, town.directory)
    await move(town, ann, AWAY)
    hashes = [row.leaf_hash for row in town.stores[HERE].log]
    root = root_of(hashes)
    moved = await town.stores[AWAY].moved_events(ann, limit=100)
    assert [row.stream_version for _, row in moved] == list(range(1, len(moved) + 1))
    for _, row in moved:
        leaf, index = codec.leaf_hash(row), row.position - 1
        path = [root_of(hashes[span.first : span.end]) for span in inclusion_spans(index, len(hashes))]
        assert tree.is_included(leaf, index, len(hashes), path, root)
        assert not tree.is_included(leaf, index, len(hashes), path, root_of(hashes[:-1]))


def root_of(leaves: Sequence[bytes]) -> bytes:
    grown = tree.Tree()
    for leaf in leaves:
        grown.append(leaf)
    return grown.root()


async def test_without_the_outcomes_a_command_is_done_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ablation: the new home knows of nothing, and does it again."""
    stage = MemoryStore.stage

    async def forgetful(
        store: MemoryStore, user_id: UUID, events: Sequence[MovedEvent], _outcomes: Sequence[OutcomeRow]
    ) -> None:
        await stage(store, user_id, events, [])

    monkeypatch.setattr(MemoryStore, "stage", forgetful)
    async with without_books(monkeypatch) as here:
        ann = await open_user(here.cells[HERE], 1_000, here.directory)
        held, command_id = Reserve(user_id=ann, amount=Money("USD", 10), expire_time_ms=None), uuid4()
        await do(here, HERE, held, ann, command_id=command_id)
        await move(here, ann, AWAY)
        assert not (await do(here, AWAY, held, ann, command_id=command_id)).replayed
        assert await available(here.cells[AWAY], ann) == 980


async def test_without_the_references_a_deposit_counts_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ablation: the bank's reference is new to the new home."""
    monkeypatch.setattr("tests.doubles.store.mark_of", lambda _row: NO_MARK)
    async with world() as here:
        ann = await open_user(here.cells[HERE], 0, here.directory)
        await do(here, HERE, deposit(ann, 5, reference="bank-1"), ann)
        await move(here, ann, AWAY)
        await do(here, AWAY, deposit(ann, 5, reference="bank-1"), ann)
        assert await available(here.cells[AWAY], ann) == 10
