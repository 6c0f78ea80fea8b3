"""A cell that has too much to do says so at once, and does nothing for callers who have gone. Over a real socket."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from uuid import UUID

import grpc
import grpc.aio
import pytest

from cellbook.v1 import ledger_pb2, settlement_pb2
from cells.domain.refusals import QueueFull
from server.process.policies import POLICIES, QUEUED
from tests.integration.services_rig import (
    BANK,
    METHODS,
    PEER,
    SHOP,
    THERE,
    Rig,
    deposit_of,
    new_id,
    path_of,
    refusal_of,
    status_of,
    usd,
)
from tests.local_cells import until

NO_PROTOBUF = b"\xff\xff\xff"
UNREADABLE = grpc.StatusCode.INVALID_ARGUMENT


def deposit(rig: Rig, timeout_s: float = 10.0, command_id: str = "") -> Coroutine[Any, Any, ledger_pb2.DepositResponse]:
    return rig.call(deposit_of(rig.ann, 1, command_id=command_id), timeout_s=timeout_s)


async def deposited(rig: Rig) -> int:
    return (await rig.cell.account(rig.ann)).state.balance("USD").available_minor - 100_000


def _holds(rig: Rig, queued: int) -> bool:
    return len(rig.cell.writer.queue) == queued


@asynccontextmanager
async def held_up(rig: Rig, waiting: int) -> AsyncIterator[None]:
    """A commit that does not end, one decided behind it, and `waiting` more in the queue; all are done at the end."""
    rig.cell.writer.batch_max = 1
    rig.store.gate.clear()
    calls = []
    for queued in (0, 0, *range(1, waiting + 1)):
        calls.append(asyncio.create_task(deposit(rig)))
        await until(lambda: len(rig.cell.writer.deciding) == min(len(calls), 2))
        await until(partial(_holds, rig, queued))
    try:
        yield
    finally:
        rig.store.gate.set()
        await asyncio.gather(*calls)


# --- a bounded queue ---


async def test_a_full_queue_turns_clients_away_at_once(rig: Rig) -> None:
    """RESOURCE_EXHAUSTED with a time to come again, while the queue does not move at all."""
    rig.cell.writer.queue.commands_max = 3
    async with held_up(rig, waiting=3):
        assert await status_of(deposit(rig)) is grpc.StatusCode.RESOURCE_EXHAUSTED
        refused = await refusal_of(deposit(rig))
        assert isinstance(refused, QueueFull)
        assert refused.retry_after_ms
    assert await deposited(rig) == 5


async def test_the_queue_is_bounded_by_bytes_too(rig: Rig) -> None:
    """Few but large commands fill it as well."""
    async with held_up(rig, waiting=2):
        rig.cell.writer.queue.bytes_max = rig.cell.writer.queue._bytes
        assert isinstance(await refusal_of(deposit(rig)), QueueFull)


async def test_reads_and_legs_pass_a_full_queue(rig: Rig) -> None:
    """A balance is told meanwhile; a leg is taken, and done before what clients have queued."""
    rig.cell.writer.queue.commands_max = 3
    pin = settlement_pb2.PinHold(user_id=str(rig.ann), auction_id=new_id(), bid_id=new_id(), amount=usd(5))
    leg = settlement_pb2.Leg(
        saga_id=new_id(),
        leg="pin",
        generation=1,
        orchestrator=THERE,
        causation_id=new_id(),
        user_id=str(rig.ann),
        pin_hold=pin,
    )
    async with held_up(rig, waiting=3):
        assert (await rig.ask("GetBalance", user_id=rig.ann, by=SHOP)).balances
        compensated = asyncio.create_task(rig.ask("CompensateLeg", leg=leg, by=PEER))
        await until(lambda: len(rig.cell.writer.queue._urgent) == 1 or compensated.done())
        assert not compensated.done(), compensated.exception()
    done = await compensated
    assert sum(row.position > done.token.position for row in rig.store.log) == 3


async def raw(rig: Rig, path: str) -> grpc.StatusCode:
    """What comes of bytes that are no message."""
    call: Any = rig.channel.unary_unary(path)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(NO_PROTOBUF, metadata=SHOP, timeout=10)
    return error.value.code()


async def test_whom_there_is_no_room_for_is_not_even_read(rig: Rig) -> None:
    """Bytes that cannot be decoded are turned away like any other command: nobody has tried."""
    assert await raw(rig, path_of("Deposit")) is grpc.StatusCode.INVALID_ARGUMENT
    rig.cell.writer.queue.commands_max = 0
    for path in QUEUED:
        assert await raw(rig, path) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await raw(rig, path_of("GetBalance")) is UNREADABLE


URGENT = {"SettlementService", "SagaService", "MoveService"}


def test_what_queues_is_every_command_of_clients() -> None:
    """Whatever carries a command_id, or items that do, and no more: legs and an operator's orders go before them."""
    commands = set()
    for path, method in METHODS.items():
        fields = method.input_type.fields_by_name
        if "command_id" in fields or "items" in fields:
            commands.add(path)
    urgent = {path for path in commands if path.split("/")[1].rpartition(".")[2] in URGENT}
    assert commands - urgent - {path_of("GetCommand")} == QUEUED
    assert set(POLICIES) > QUEUED


# --- a queue bounded by the wait in it ---


async def test_who_would_wait_too_long_is_turned_away(rig: Rig) -> None:
    """At the pace of one command a second, two before one are too many; and there is room again once they are done."""
    queue = rig.cell.writer.queue
    queue.throughput.per_s, queue.commands_always = 1.0, 1
    async with held_up(rig, waiting=2):
        assert isinstance(await refusal_of(deposit(rig)), QueueFull)
    assert await deposited(rig) == 4
    await deposit(rig)


async def test_a_short_queue_takes_more_however_slow_it_is(rig: Rig) -> None:
    """A database that stood still for a moment is no overload: the next commit takes them all."""
    queue = rig.cell.writer.queue
    queue.throughput.per_s = 1.0
    async with held_up(rig, waiting=2):
        late = asyncio.create_task(deposit(rig))
        await until(partial(_holds, rig, 3))
    await late
    assert await deposited(rig) == 5


async def test_without_the_bound_callers_would_wait_for_nothing(rig: Rig) -> None:
    """Ablation: the same queue, unbounded in time, takes who will be gone when its turn comes."""
    queue = rig.cell.writer.queue
    queue.throughput.per_s, queue.commands_always, queue.wait_max_s = 1.0, 1, float("inf")
    async with held_up(rig, waiting=2):
        assert await status_of(deposit(rig, timeout_s=0.3)) is grpc.StatusCode.DEADLINE_EXCEEDED


# --- deadlines ---


async def late_deposits(rig: Rig) -> int:
    """What is done of a deposit whose deadline passes while it waits in the queue."""
    async with held_up(rig, waiting=1):
        assert await status_of(deposit(rig, timeout_s=0.3)) is grpc.StatusCode.DEADLINE_EXCEEDED
        waiting = list(rig.cell.writer.queue.clients())[-1]
        deadline_s = waiting.request.deadline_s
        await until(waiting.waiters[0].done)
        await until(lambda: deadline_s is None or rig.cell.time.clock.monotonic_s() > deadline_s)
    await deposit(rig)
    return await deposited(rig) - 4


async def test_a_command_whose_deadline_has_passed_is_dropped(rig: Rig) -> None:
    """Its caller was told that nothing is known; and nothing is done."""
    assert await late_deposits(rig) == 0


async def test_its_deadline_alone_drops_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the caller's going away has not been noticed."""
    monkeypatch.setattr("cells.writer.queue.Pending.given_up", property(lambda _: False))
    assert await late_deposits(rig) == 0


async def test_without_deadlines_the_cell_would_work_for_nobody(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablation: with neither the deadline passed on nor the caller's going away noticed, the command is executed."""
    monkeypatch.setattr("server.wire.requests.parse_deadline", lambda *_: None)
    monkeypatch.setattr("cells.writer.queue.Pending.given_up", property(lambda _: False))
    assert await late_deposits(rig) == 1


async def test_a_command_that_waits_is_not_said_to_be_unknown(rig: Rig) -> None:
    """It may happen yet: to say that nothing was done under its id would be taken for the last word."""
    async with held_up(rig, 1):
        waiting = list(rig.cell.writer.queue.clients())[-1].request.command_id
        status = await rig.ask("GetCommand", command_id=waiting, by=BANK)
        assert status.state == ledger_pb2.COMMAND_STATE_IN_PROGRESS


async def test_a_deadline_within_a_commit_leaves_nothing_unknown(rig: Rig) -> None:
    """The commit goes on; the command's id tells how it ended, and sent again it happens no second time."""
    command_id = new_id()
    rig.store.gate.clear()
    assert await status_of(deposit(rig, timeout_s=0.3, command_id=command_id)) is grpc.StatusCode.DEADLINE_EXCEEDED
    asked = ledger_pb2.GetCommandRequest(command_id=command_id)
    status = await rig.call(asked, by=BANK)
    assert status.state == ledger_pb2.COMMAND_STATE_IN_PROGRESS
    rig.store.gate.set()
    await until(lambda: ("treasury/bank", UUID(command_id)) not in rig.cell.writer.deciding)
    status = await rig.call(asked, by=BANK)
    assert status.state == ledger_pb2.COMMAND_STATE_ACCEPTED
    assert (await deposit(rig, command_id=command_id)).receipt.replayed
    assert await deposited(rig) == 1
