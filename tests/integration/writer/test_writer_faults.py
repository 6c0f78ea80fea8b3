"""The writer when a commit fails, is lost on its way, or another process leads."""

import asyncio
from unittest.mock import AsyncMock

import pytest

from cells.domain.commands import Transfer, Withdraw
from cells.domain.record import replace
from cells.domain.refusals import (
    HouseAccountFull,
    InsufficientFunds,
    NotLeading,
    Unavailable,
    Unstorable,
)
from cells.domain.values import BALANCE_MAX_MINOR, Money
from cells.requests import CommandState, Outcome
from cells.store.ports import Batch, StoreUnavailable
from tests.doubles.store import Fault, MemoryStore
from tests.local_cells import (
    READER,
    available,
    build_cell,
    deposit,
    deposits_of,
    leading,
    memory_cell,
    open_user,
    request,
    settle_all,
    under_way,
    until,
)


async def test_a_successor_of_a_failed_batch_is_decided_again() -> None:
    """The deposit that it was decided on never happened: the transfer is refused, not carried out."""
    async with memory_cell() as (cell, store):
        ann, ben = await open_user(cell), await open_user(cell)
        store.gate.clear()
        first = asyncio.create_task(cell.execute(request(deposit(ann, 100))))
        await until(lambda: under_way(cell))
        transfer = Transfer(from_user_id=ann, to_user_id=ben, amount=Money("USD", 100))
        second = asyncio.create_task(cell.execute(request(transfer)))
        await until(lambda: cell.writer._open is not None and cell.writer._open.answers)
        store.fail_next(Fault.UNAVAILABLE)
        # The gate is inside append, before the fault is looked at.
        store.gate.set()
        with pytest.raises(Unavailable):
            await first
        with pytest.raises(InsufficientFunds):
            await second
        assert (await available(cell, ann), await available(cell, ben)) == (0, 0)


async def test_without_throwing_away_a_successor_would_spend_what_never_came(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ablation: states of the failed batch stay in memory, and the money that never came is spent."""
    monkeypatch.setattr("cells.writer.cache.StateCache.forget", lambda *_: None)
    async with memory_cell() as (cell, store):
        ann, ben = await open_user(cell), await open_user(cell)
        store.fail_next(Fault.UNAVAILABLE)
        with pytest.raises(Unavailable):
            await cell.execute(request(deposit(ann, 100)))
        await cell.execute(request(Transfer(from_user_id=ann, to_user_id=ben, amount=Money("USD", 100))))
        assert await available(cell, ben) == 100
        assert deposits_of(store, ann) == 0


@pytest.mark.parametrize("committed", [True, False])
async def test_a_commit_whose_reply_was_lost_is_settled_by_the_head(committed: bool) -> None:  # noqa: FBT001
    """Raising the epoch tells for certain; the same id then gets the answer, once."""
    async with memory_cell() as (cell, store):
        user_id = await open_user(cell)
        epoch = cell.writer.epoch
        store.fail_next(Fault.COMMITTED if committed else Fault.NOT_COMMITTED)
        paid = request(deposit(user_id))
        if committed:
            assert not (await cell.execute(paid)).replayed
        else:
            with pytest.raises(Unavailable):
                await cell.execute(paid)
        assert cell.writer.epoch == epoch + 1
        assert (await cell.execute(paid)).replayed is committed
        assert deposits_of(store, user_id) == 1


async def test_a_commit_is_under_way_until_the_head_has_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its caller has gone with an unknown; whoever asks by the id meanwhile is not told that nothing was done."""
    async with memory_cell() as (cell, store):
        user_id = await open_user(cell)
        away = StoreUnavailable("the database is away")
        store.fail_next(Fault.COMMITTED)
        paid = request(deposit(user_id))
        with monkeypatch.context() as patch:
            patch.setattr(MemoryStore, "claim", AsyncMock(side_effect=away))
            patch.setattr(MemoryStore, "outcomes", AsyncMock(side_effect=[{}, {}]))
            with pytest.raises(Unavailable):
                await cell.execute(paid)
            assert (await cell.outcomes.status(paid.command_id, READER)).state is CommandState.IN_PROGRESS
        await until(lambda: not cell.writer.under_way(paid.command_id))
        assert (await cell.outcomes.status(paid.command_id, READER)).state is CommandState.ACCEPTED


async def test_a_leader_whose_database_stays_away_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waited for the database to say what had become of a commit, for ever: only a kill ended the process."""
    store = MemoryStore("us-east")
    cell = build_cell("us-east", store)
    running = asyncio.create_task(cell.run())
    await until(lambda: cell.leading)
    ann = await open_user(cell)
    claim = AsyncMock(side_effect=StoreUnavailable("the database is away"))
    monkeypatch.setattr(MemoryStore, "claim", claim)
    store.fail_next(Fault.NOT_COMMITTED)
    with pytest.raises(Unavailable):
        await cell.execute(request(deposit(ann, 100)))
    await until(lambda: claim.await_count > 1)
    cell.stop()
    async with asyncio.timeout(5):
        await running


async def test_a_cell_that_was_stopped_before_it_ran_does_not_lead() -> None:
    """It began to lead all the same, with nobody left to stop it."""
    store = MemoryStore("us-east")
    cell = build_cell("us-east", store)
    cell.stop()
    async with asyncio.timeout(5):
        await cell.run()
    assert (await store.head()).epoch == 0


async def test_taking_an_unknown_commit_for_a_failed_one_would_lose_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ablation: without asking the head, the writer goes on from a position that is not there any more."""

    async def guess(self: object, group: object) -> None:
        self._fail([pending for pending, _ in group.answers], Unavailable(problem="guessed"))  # type: ignore[attr-defined]

    monkeypatch.setattr("cells.writer.writer.Writer._resolve_unknown", guess)
    async with memory_cell() as (cell, store):
        user_id = await open_user(cell)
        store.fail_next(Fault.COMMITTED)
        with pytest.raises(Unavailable):
            await cell.execute(request(deposit(user_id)))
        with pytest.raises(NotLeading):
            await cell.execute(request(deposit(user_id)))


async def test_one_command_that_cannot_be_stored_does_not_fail_its_neighbours() -> None:
    """The batch is bisected until the bad one is found and refused; the others are done, in order."""
    async with memory_cell() as (cell, store):
        user_id = await open_user(cell)
        store.gate.clear()
        held = asyncio.create_task(cell.execute(request(deposit(user_id))))
        await until(lambda: under_way(cell))
        # Past the wire, which refuses it: a NUL that PostgreSQL has no place for.
        references = [f"r{n}" if n != 37 else "bad\x00" for n in range(60)]
        tasks = [asyncio.create_task(cell.execute(request(deposit(user_id, 1, reference)))) for reference in references]
        await until(lambda: cell.writer._open is not None and len(cell.writer._open.answers) == 60)
        store.gate.set()
        await held
        outcomes = await settle_all(tasks)
        assert [index for index, each in enumerate(outcomes) if isinstance(each, Unstorable)] == [37]
        assert sum(isinstance(each, Outcome) for each in outcomes) == 59
        assert await available(cell, user_id) == 100 + 59
        assert [row.position for row in store.log] == list(range(1, len(store.log) + 1))


async def test_a_house_account_that_is_full_is_named() -> None:
    """Nothing is written, and the same command is accepted once money has left."""
    async with memory_cell() as (cell, store):
        ann, ben, carl = [await open_user(cell) for _ in range(3)]
        for user_id in (ann, ben):
            await cell.execute(request(deposit(user_id, BALANCE_MAX_MINOR)))
        await cell.execute(request(deposit(carl, 1)))
        position, more = (await store.head()).position, request(deposit(carl, 1))
        with pytest.raises(HouseAccountFull, match=r"external \(USD\)"):
            await cell.execute(more)
        assert (await store.head()).position == position
        await cell.execute(request(Withdraw(user_id=ann, amount=Money("USD", 1), external_reference="out")))
        await cell.execute(more)


async def test_a_deposed_writer_cannot_write() -> None:
    """Somebody raised the epoch: the next commit is fenced out, and its caller is told to go elsewhere."""
    async with memory_cell() as (cell, store):
        user_id = await open_user(cell)
        position = (await store.head()).position
        await store.claim()
        with pytest.raises(NotLeading):
            await cell.execute(request(deposit(user_id)))
        assert (await store.head()).position == position


async def test_without_the_fence_two_writers_would_share_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablation: with the epoch not compared, a deposed writer writes on."""
    async with memory_cell() as (cell, store):
        user_id = await open_user(cell)
        await store.claim()
        append = MemoryStore.append

        async def unfenced(self: MemoryStore, batch: Batch) -> None:
            await append(self, replace(batch, epoch=self._epoch))

        monkeypatch.setattr(MemoryStore, "append", unfenced)
        await cell.execute(request(deposit(user_id)))
        assert deposits_of(store, user_id) == 1


async def test_a_leader_goes_on_where_its_predecessor_stopped() -> None:
    """The same store, another process: positions and stamps go on, and what was done is known."""
    store = MemoryStore("us-east")
    first = build_cell("us-east", store)
    async with leading(first):
        user_id = await open_user(first)
        paid = request(deposit(user_id))
        await first.execute(paid)
    assert (await store.head()).beat == 0
    second = build_cell("us-east", store)
    async with leading(second):
        assert (await second.execute(paid)).replayed
        await second.execute(request(deposit(user_id)))
    stamps = [(row.hlc_physical, row.hlc_logical) for row in store.log]
    assert stamps == sorted(set(stamps))
    assert [row.position for row in store.log] == list(range(1, len(store.log) + 1))
