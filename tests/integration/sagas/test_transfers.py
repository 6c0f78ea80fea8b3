"""Transfers between users of two cells, through the real writers and engines, the books looking at every commit."""

import asyncio
from collections.abc import AsyncIterator
from unittest.mock import AsyncMock
from uuid import UUID, uuid4

import pytest

from cells import outcomes
from cells.cell import Cell
from cells.domain.commands import Transfer
from cells.domain.decision import LedgerPolicy
from cells.domain.moves.home import Home
from cells.domain.refusals import (
    BalanceOverflow,
    CommandIdReused,
    InProgress,
    InsufficientFunds,
    PayeeNotFound,
    Refused,
    SameAccount,
    TransferExpired,
    Unavailable,
    UserNotFound,
    WrongCell,
)
from cells.domain.results import BalanceAfter
from cells.domain.sagas.saga import SagaState
from cells.domain.values import BALANCE_MAX_MINOR, Money
from cells.requests import CommandState, Outcome
from cells.store.ports import SagaFilter, Versioned
from tests.doubles.failpoints import Failpoints
from tests.local_cells import READER, FixedDirectory, available, deposit, open_user, request, until_async
from tests.saga_world import AWAY, HERE, World, world

pytestmark = pytest.mark.usefixtures("quick_probes")


class Town:
    """Ann lives here with 10.00 USD, Bob there with nothing."""

    def __init__(self, here: World, ann: UUID, bob: UUID) -> None:
        self.world, self.ann, self.bob = here, ann, bob

    @property
    def here(self) -> Cell:
        return self.world.cells[HERE]

    @property
    def there(self) -> Cell:
        return self.world.cells[AWAY]

    def pay(self, amount_minor: int = 400, *, currency: str = "USD", to: UUID | None = None) -> Transfer:
        amount = Money(currency, amount_minor)
        return Transfer(from_user_id=self.ann, to_user_id=to or self.bob, amount=amount)

    async def answer(self, command: Transfer, command_id: UUID | None = None) -> Outcome:
        return await self.here.execute(request(command, command_id=command_id))

    async def refused(self, command: Transfer, command_id: UUID | None = None) -> Refused:
        with pytest.raises(Refused) as refused:
            await self.answer(command, command_id)
        return refused.value

    async def begun(self, command: Transfer) -> UUID:
        """Sends it, and goes away as soon as it is under way."""
        command_id = uuid4()
        answer = asyncio.create_task(self.answer(command, command_id))
        await until_async(lambda: sagas_of(self.here))
        answer.cancel()
        await asyncio.wait([answer])
        return command_id

    async def ended(self, command_id: UUID) -> CommandState:
        await until_async(
            lambda: self.here.outcomes.status(command_id, READER),
            lambda found: found.state is not CommandState.IN_PROGRESS,
            timeout_s=30.0,
        )
        return (await self.here.outcomes.status(command_id, READER)).state

    async def balances(self) -> tuple[int, int]:
        return await available(self.here, self.ann), await available(self.there, self.bob)

    def expiring_soon(self, valid_ms: int = 1_000) -> None:
        self.here.writer._decider.policy = LedgerPolicy(transfer_valid_ms=valid_ms)


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    async with world() as here:
        ann = await open_user(here.cells[HERE], 1_000, here.directory)
        yield Town(here, ann, await open_user(here.cells[AWAY], 0, here.directory))
        here.cable.cut.clear()
        await quiet(here)
        here.books.check_settled()
        here.books.check_conserved()


async def sagas_of(cell: Cell, *states: SagaState) -> list[tuple[UUID, Versioned]]:
    """One of those in `states`, or in any."""
    return await cell.store.list_sagas(SagaFilter(states=states), after=None, limit=1)


async def quiet(here: World) -> None:
    """No saga is under way in any cell."""

    async def so() -> bool:
        states = [SagaState.RUNNING, SagaState.COMMITTED, SagaState.COMPENSATING]
        under_way = [await sagas_of(cell, *states) for cell in here.cells.values()]
        return not any(under_way)

    await until_async(so, timeout_s=30.0)


async def test_money_arrives_in_the_other_cell(town: Town) -> None:
    """The payer is answered as for a transfer at home; the same id gets the same answer."""
    command_id = uuid4()
    first = await town.answer(town.pay(), command_id)
    assert first.result == BalanceAfter(currency="USD", available_minor=600, reserved_minor=0, pending_minor=0)
    again = await town.answer(town.pay(), command_id)
    assert (again.result, again.replayed) == (first.result, True)
    assert await town.balances() == (600, 400)


async def test_a_command_that_comes_twice_at_once_is_answered_once_and_for_all(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second comes while the first finds out where the payee lives: neither is told that he is nowhere."""
    command_id = uuid4()
    twins: list[asyncio.Task[Outcome]] = []
    find = FixedDirectory.find

    async def with_a_twin(directory: FixedDirectory, user_id: UUID) -> Home | None:
        if not twins:
            twins.append(asyncio.create_task(town.answer(town.pay(), command_id)))
            # It is queued, as it came: without the payee's cell.
            await asyncio.sleep(0)
        return await find(directory, user_id)

    monkeypatch.setattr(FixedDirectory, "find", with_a_twin)
    first = await town.answer(town.pay(), command_id)
    second = await twins[0]
    assert first.result.available_minor == second.result.available_minor == 600
    assert await town.balances() == (600, 400)


async def test_one_flow_from_the_command_to_the_credit(town: Town) -> None:
    """All events carry the saga's id, and each is caused by the one before, across the cells."""
    await town.answer(town.pay())
    logs = [town.world.stores[name].log for name in (HERE, AWAY)]
    started = next(row for row in logs[0] if row.event_type == "SAGA_STARTED")
    flow = [row for log in logs for row in log if row.correlation_id == started.aggregate_id]
    by_cause = {row.causation_id: row for row in flow}
    chain, row = [], by_cause.get(None)
    while row is not None:
        chain.append(row.event_type)
        row = by_cause.get(row.event_id)
    assert chain == [
        "SAGA_STARTED",
        "REMOTE_TRANSFER_SENT",
        "SAGA_LEG_COMPLETED",
        "REMOTE_TRANSFER_RECEIVED",
        "SAGA_LEG_COMPLETED",
        "SAGA_COMPLETED",
    ]
    assert len(flow) == len(chain)


async def test_many_transfers_both_ways(town: Town) -> None:
    """Side by side, each once."""
    town.world.books.users.flows_max = town.here.writer.policy.user_flows_max
    await town.there.execute(request(deposit(town.bob, 1_000)))
    back = Transfer(from_user_id=town.bob, to_user_id=town.ann, amount=Money("USD", 7))
    await asyncio.gather(
        *(town.answer(town.pay(10)) for _ in range(40)),
        *(town.there.execute(request(back)) for _ in range(40)),
    )
    assert await town.balances() == (1_000 - 400 + 280, 1_000 + 400 - 280)


async def test_a_transfer_waits_for_a_cell_that_is_away(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """In progress through the cut, the money neither here nor there, and done once the cell is back."""
    town.world.cable.cut.add(AWAY)
    command_id = await town.begun(town.pay())
    assert (await town.here.outcomes.status(command_id, READER)).state is CommandState.IN_PROGRESS
    monkeypatch.setattr(outcomes, "WAIT_MAX_S", 0.01)
    assert isinstance(await town.refused(town.pay(), command_id), InProgress)
    assert await town.balances() == (600, 0)
    assert sum(town.world.books.in_transit.values()) == 400
    town.world.cable.cut.clear()
    assert await town.ended(command_id) is CommandState.ACCEPTED
    assert await town.balances() == (600, 400)


async def test_a_lost_answer_is_asked_for_again(town: Town) -> None:
    """The credit that nobody heard of is taken once."""
    town.world.cable.unheard.add("receive")
    await town.answer(town.pay())
    assert not town.world.cable.unheard
    assert await town.balances() == (600, 400)


async def test_a_transfer_that_cannot_arrive_in_time_comes_back(town: Town) -> None:
    """The deadline passes in the cut and is not slept over; once the cell is back it is barred there and undone."""
    town.expiring_soon()
    town.world.cable.cut.add(AWAY)
    command_id = await town.begun(town.pay())
    await until_async(lambda: sagas_of(town.here, SagaState.COMPENSATING))
    town.world.cable.cut.clear()
    assert await town.ended(command_id) is CommandState.REFUSED
    assert isinstance((await town.here.outcomes.status(command_id, READER)).refusal, TransferExpired)
    assert await town.balances() == (1_000, 0)


async def test_a_credit_whose_answer_is_lost_until_the_deadline_stands(town: Town) -> None:
    """It was done, and is found done: the payee keeps the money."""
    town.expiring_soon(2_000)
    there = town.there

    class Unheard(Failpoints):
        """After the credit no answer leaves, as if the cable had been cut just then."""

        def hit(self, point: str, leg: str, direction: str) -> None:
            if (point, leg, direction) == ("after-commit", "receive", "action"):
                town.world.cable.unheard.add("receive")
                town.world.cable.cut.add(AWAY)

    there.failpoints = Unheard()
    command_id = await town.begun(town.pay())
    await until_async(lambda: sagas_of(town.here, SagaState.COMPENSATING))
    there.failpoints = Failpoints()
    town.world.cable.cut.clear()
    assert await town.ended(command_id) is CommandState.ACCEPTED
    assert await town.balances() == (600, 400)


async def test_the_next_leader_goes_on(town: Town) -> None:
    """The payer's cell changes leaders with a transfer under way: the new one brings it to its end, and knows it."""
    town.world.cable.cut.add(AWAY)
    command_id = await town.begun(town.pay())
    await town.world.step_down(HERE)
    town.world.cable.cut.clear()
    await town.world.lead(HERE)
    assert await town.ended(command_id) is CommandState.ACCEPTED
    assert await town.balances() == (600, 400)


async def test_a_payee_without_room_gets_nothing(town: Town) -> None:
    """The other cell's no is the command's end, kept and repeated."""
    await town.there.execute(request(deposit(town.bob, BALANCE_MAX_MINOR - 100)))
    command_id = uuid4()
    for _ in range(2):
        assert isinstance(await town.refused(town.pay(), command_id), BalanceOverflow)
    assert await town.balances() == (1_000, BALANCE_MAX_MINOR - 100)


async def test_a_payee_who_is_registered_but_has_no_account(town: Town) -> None:
    """The money comes back, and asked again the command does not begin anew, though the account is there now."""
    nobody, command_id = uuid4(), uuid4()
    town.world.directory.homes[nobody] = AWAY
    assert isinstance(await town.refused(town.pay(to=nobody), command_id), PayeeNotFound)
    assert isinstance(await town.refused(town.pay(to=nobody), command_id), PayeeNotFound)
    assert await town.balances() == (1_000, 0)


async def test_what_is_refused_at_home_starts_nothing(town: Town) -> None:
    """To oneself, to nobody, more than there is, in another currency, by a stranger, under a used id."""
    other = Transfer(from_user_id=town.bob, to_user_id=town.ann, amount=Money("USD", 1))
    used = uuid4()
    await town.here.execute(request(deposit(town.ann, 1), command_id=used, fingerprint=b"another"))
    assert isinstance(await town.refused(town.pay(to=town.ann)), SameAccount)
    assert isinstance(await town.refused(town.pay(to=uuid4())), UserNotFound)
    assert isinstance(await town.refused(town.pay(2_000)), InsufficientFunds)
    assert isinstance(await town.refused(town.pay(currency="EUR")), InsufficientFunds)
    assert isinstance(await town.refused(other), WrongCell)
    assert isinstance(await town.refused(town.pay(), used), CommandIdReused)
    assert not await sagas_of(town.here)
    assert await town.balances() == (1_001, 0)


async def test_without_the_router_a_stranger_is_not_refused_for_good(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can say where the payee lives: to be asked again under the same id, and then it is done."""
    command_id, away = uuid4(), AsyncMock(side_effect=Unavailable(problem="the router does not answer"))
    with monkeypatch.context() as patch:
        patch.setattr(FixedDirectory, "find", away)
        refused = await town.refused(town.pay(), command_id)
    assert isinstance(refused, Unavailable)
    assert refused.retry_after_ms is not None
    await town.answer(town.pay(), command_id)
    assert await town.balances() == (600, 400)
