"""The single writer: what it promises when all is well and when its store fails, with each safeguard's ablation."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest

from cells.domain.commands import CancelAuction, PlaceBid, Transfer
from cells.domain.record import replace
from cells.domain.refusals import (
    CommandIdReused,
    DeadlinePassed,
    InsufficientFunds,
    QueueFull,
    Refused,
)
from cells.domain.values import Money
from cells.requests import CommandRequest, Lane, Outcome
from cells.store.ports import OutcomeRow
from cells.writer.writer import GATHERED, Writer
from tests.doubles.store import MemoryStore
from tests.local_cells import (
    WAIT_S,
    available,
    build_cell,
    deposit,
    deposits_of,
    leading,
    memory_cell,
    open_auction,
    open_user,
    request,
    settle_all,
    under_way,
    until,
)


async def test_commands_that_wait_share_one_commit() -> None:
    """A hundred commands sent at once take a few transactions, not a hundred."""
    async with memory_cell() as (cell, store):
        user_id = await open_user(cell)
        before = store.appends
        await asyncio.gather(*(cell.execute(request(deposit(user_id))) for _ in range(100)))
        assert store.appends - before < 10
        assert await available(cell, user_id) == 10_000


async def test_nothing_is_answered_before_it_is_durable() -> None:
    """While the commit is held up nobody is answered, refusals included."""
    async with memory_cell() as (cell, store):
        user_id = await open_user(cell, 100)
        store.gate.clear()
        paid = asyncio.create_task(cell.execute(request(deposit(user_id))))
        refused = asyncio.create_task(
            cell.execute(request(Transfer(from_user_id=user_id, to_user_id=user_id, amount=Money("USD", 1))))
        )
        await asyncio.wait([paid, refused], timeout=0.3)
        assert not paid.done()
        assert not refused.done()
        store.gate.set()
        assert (await paid).result.available_minor == 200
        with pytest.raises(Refused):
            await refused


async def test_the_next_batch_is_decided_on_top_of_the_one_that_commits() -> None:
    """Money that arrives in the batch under way can be spent by the next one."""
    async with memory_cell() as (cell, store):
        ann, ben = await open_user(cell), await open_user(cell)
        store.gate.clear()
        first = asyncio.create_task(cell.execute(request(deposit(ann, 100))))
        await until(lambda: under_way(cell))
        transfer = Transfer(from_user_id=ann, to_user_id=ben, amount=Money("USD", 100))
        second = asyncio.create_task(cell.execute(request(transfer)))
        await until(lambda: cell.writer._open is not None and cell.writer._open.answers)
        store.gate.set()
        await asyncio.gather(first, second)
        assert (await available(cell, ann), await available(cell, ben)) == (0, 100)


async def test_what_comes_while_a_commit_is_under_way_gathers(monkeypatch: pytest.MonkeyPatch) -> None:
    """One look at the store for ten commands that come one after the other; many are not kept waiting for it."""
    looks: list[int] = []
    outcomes = MemoryStore.outcomes

    async def counted(self: MemoryStore, command_ids: Sequence[UUID]) -> list[OutcomeRow]:
        looks.append(len(command_ids))
        return await outcomes(self, command_ids)

    # No beat comes between.
    monkeypatch.setattr("cells.writer.writer.BEAT_S", WAIT_S)
    async with memory_cell() as (cell, store):
        user_id = await open_user(cell)
        store.gate.clear()
        first = asyncio.create_task(cell.execute(request(deposit(user_id))))
        await until(lambda: under_way(cell))
        monkeypatch.setattr(MemoryStore, "outcomes", counted)
        few = []
        for waiting in range(1, 11):
            few.append(asyncio.create_task(cell.execute(request(deposit(user_id)))))
            await until(lambda waiting=waiting: len(cell.writer.queue) == waiting)  # type: ignore[misc]
        assert not looks
        store.gate.set()
        await asyncio.gather(first, *few)
        assert looks == [10]
        store.gate.clear()
        first = asyncio.create_task(cell.execute(request(deposit(user_id))))
        await until(lambda: under_way(cell))
        many = [asyncio.create_task(cell.execute(request(deposit(user_id)))) for _ in range(GATHERED)]
        await until(lambda: cell.writer._open is not None and len(cell.writer._open.answers) == GATHERED)
        store.gate.set()
        await asyncio.gather(first, *many)


async def test_a_command_sent_again_gets_the_stored_outcome() -> None:
    """Accepted or refused: the same answer, marked as replayed, and no second effect."""
    async with memory_cell() as (cell, store):
        user_id = await open_user(cell)
        paid = request(deposit(user_id))
        first, again = await cell.execute(paid), await cell.execute(paid)
        assert again == replace(first, replayed=True)
        assert deposits_of(store, user_id) == 1
        spent = request(Transfer(from_user_id=user_id, to_user_id=await open_user(cell), amount=Money("USD", 999)))
        for _ in range(2):
            with pytest.raises(InsufficientFunds):
                await cell.execute(spent)
            await cell.execute(request(deposit(user_id, 1_000)))


async def test_a_duplicate_of_a_command_under_way_joins_it() -> None:
    """Twenty at once under one id: one effect, twenty answers."""
    async with memory_cell() as (cell, store):
        user_id = await open_user(cell)
        paid = request(deposit(user_id))
        answers = await asyncio.gather(*(cell.execute(paid) for _ in range(20)))
        assert len({answer.position for answer in answers}) == 1
        assert deposits_of(store, user_id) == 1


async def test_a_reused_id_is_refused_also_while_the_first_is_under_way() -> None:
    """Another body under the same id is found out before anything else."""
    async with memory_cell() as (cell, store):
        user_id = await open_user(cell)
        command_id = uuid4()
        store.gate.clear()
        first = asyncio.create_task(cell.execute(request(deposit(user_id), command_id=command_id)))
        await until(lambda: ("service/test", command_id) in cell.writer.deciding)
        other = request(deposit(user_id), command_id=command_id, fingerprint=b"other")
        with pytest.raises(CommandIdReused):
            await cell.execute(other)
        store.gate.set()
        await first
        with pytest.raises(CommandIdReused):
            await cell.execute(other)


async def test_without_stored_outcomes_a_retry_would_pay_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablation: outcomes forgotten, the same command happens again."""

    async def none(*_: object) -> dict[UUID, object]:
        return {}

    monkeypatch.setattr(MemoryStore, "outcomes", none)
    async with memory_cell() as (cell, _):
        ann, ben = await open_user(cell, 100), await open_user(cell)
        paid = request(Transfer(from_user_id=ann, to_user_id=ben, amount=Money("USD", 30)))
        await cell.execute(paid)
        await cell.execute(paid)
        assert await available(cell, ben) == 60


async def test_a_caller_that_gives_up_does_not_undo_a_commit() -> None:
    """Cancelled in the middle of the commit: the command is done, and its id tells."""
    async with memory_cell() as (cell, store):
        user_id = await open_user(cell)
        paid = request(deposit(user_id))
        store.gate.clear()
        call = asyncio.create_task(cell.execute(paid))
        await until(lambda: under_way(cell))
        call.cancel()
        await asyncio.wait([call])
        store.gate.set()
        assert (await cell.execute(paid)).replayed
        assert deposits_of(store, user_id) == 1


async def test_without_the_shield_giving_up_would_undo_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablation: the caller's cancellation reaches the commit under way, and nothing was done."""
    submit = Writer.submit

    async def unshielded(self: Writer, given: CommandRequest) -> Outcome:
        try:
            return await submit(self, given)
        except asyncio.CancelledError:
            if self._committing is not None and self._committing.commit is not None:
                self._committing.commit.cancel()
            raise

    monkeypatch.setattr(Writer, "submit", unshielded)
    store = MemoryStore("us-east")
    cell = build_cell("us-east", store)
    run = asyncio.create_task(cell.run())
    await until(lambda: cell.leading)
    user_id = await open_user(cell)
    store.gate.clear()
    call = asyncio.create_task(cell.execute(request(deposit(user_id))))
    await until(lambda: under_way(cell))
    call.cancel()
    await asyncio.wait([call, run], timeout=WAIT_S)
    assert run.done()
    assert deposits_of(store, user_id) == 0


async def test_a_command_given_up_before_it_is_decided_is_dropped() -> None:
    """Nobody waits for it any more: it is not done."""
    async with memory_cell() as (cell, store):
        user_id = await open_user(cell)
        cell.writer.batch_max = 1
        store.gate.clear()
        held = [asyncio.create_task(cell.execute(request(deposit(user_id)))) for _ in range(2)]
        await until(lambda: cell.writer._open is not None and cell.writer._open.answers)
        late = asyncio.create_task(cell.execute(request(deposit(user_id))))
        await until(lambda: len(cell.writer.queue) == 1)
        late.cancel()
        await asyncio.wait([late])
        store.gate.set()
        await asyncio.gather(*held)
        await cell.execute(request(deposit(user_id)))
        assert deposits_of(store, user_id) == 3


async def test_a_command_whose_deadline_has_passed_is_not_done() -> None:
    """It says so, definitely enough to try again, and nothing has happened."""
    async with memory_cell() as (cell, store):
        user_id = await open_user(cell)
        with pytest.raises(DeadlinePassed):
            await cell.execute(request(deposit(user_id), deadline_s=cell.time.clock.monotonic_s() - 1))
        assert deposits_of(store, user_id) == 0


async def test_the_queue_is_bounded_and_says_so_at_once() -> None:
    """Past the bound clients are refused with a time to wait; urgent work is not."""
    async with memory_cell() as (cell, store):
        user_id = await open_user(cell)
        cell.writer.queue.commands_max = 5
        cell.writer.batch_max = 1
        store.gate.clear()
        tasks = [asyncio.create_task(cell.execute(request(deposit(user_id)))) for _ in range(20)]
        urgent = asyncio.create_task(cell.execute(request(deposit(user_id), lane=Lane.URGENT)))
        await until(lambda: sum(task.done() for task in tasks) >= 13)
        store.gate.set()
        outcomes = await settle_all(tasks)
        refused = [each for each in outcomes if isinstance(each, QueueFull)]
        assert 13 <= len(refused) <= 15
        assert refused[0].retry_after_ms
        assert isinstance(await urgent, Outcome)
        assert deposits_of(store, user_id) == 20 - len(refused) + 1


async def test_urgent_work_overtakes_what_clients_have_queued() -> None:
    """Settlement is never starved by bids."""
    async with memory_cell() as (cell, store):
        user_id = await open_user(cell)
        cell.writer.batch_max = 1
        store.gate.clear()
        tasks = [asyncio.create_task(cell.execute(request(deposit(user_id)))) for _ in range(10)]
        await until(lambda: len(cell.writer.queue) == 8)
        urgent = asyncio.create_task(cell.execute(request(deposit(user_id), lane=Lane.URGENT)))
        await until(lambda: len(cell.writer.queue) == 9)
        store.gate.set()
        position = (await urgent).position
        answers = await asyncio.gather(*tasks)
        assert sum(answer.position > position for answer in answers) == 8


async def test_a_batch_decides_in_the_order_of_arrival() -> None:
    """Rising bids that arrive together are all accepted; falling ones but the first are all refused."""
    async with memory_cell() as (cell, _):
        seller, bidder = await open_user(cell), await open_user(cell, 100_000)
        for amounts, accepted in ((range(100, 150), 50), (range(150, 100, -1), 1)):
            auction_id = await open_auction(cell, seller)
            bids = [
                PlaceBid(auction_id=auction_id, auction_cell=cell.name, bidder_id=bidder, amount=Money("USD", n))
                for n in amounts
            ]
            outcomes = await settle_all([asyncio.create_task(cell.execute(request(bid))) for bid in bids])
            assert Counter(isinstance(each, Outcome) for each in outcomes)[True] == accepted


async def test_what_a_command_changes_is_loaded_though_no_rule_looks_at_it() -> None:
    """Just after a start nothing is in memory: a cancelled auction's asset is unlocked on top of its own stream."""
    store = MemoryStore("us-east")
    first = build_cell("us-east", store)
    async with leading(first):
        auction_id = await open_auction(first, await open_user(first))
    second = build_cell("us-east", store)
    async with leading(second):
        await second.execute(request(CancelAuction(auction_id=auction_id)))
    assert [row.stream_version for row in store.log if row.event_type == "ASSET_LOCK_RELEASED"] == [3]
