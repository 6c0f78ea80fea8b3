"""What cells ask of each other, and the log that anybody may follow, over a real socket."""

import asyncio
from collections.abc import AsyncGenerator
from typing import TypeAlias, cast
from uuid import UUID

import grpc.aio
import pytest

from cellbook.v1 import event_pb2, settlement_pb2
from cells.cell import Cell
from cells.domain.commands import ApplyLeg, Command, CreditPending, LegAction
from cells.domain.record import replace
from cells.domain.refusals import NotPermitted
from cells.domain.time.hlc import Stamp
from cells.domain.values import Direction, LegId, Money
from cells.log.subscriptions import Subscriptions
from cells.requests import CaughtUp, CommandRequest, Outcome, Progress
from cells.store.ports import EventFilter, EventRow, LegCall
from server.process.clock import STAMP_KEY
from server.services.audit_parts import Context
from server.services.events import EventServicer
from server.shell.calls.call import enter_call
from server.shell.identity.principal import Principal, Role
from server.wire.events import item_to_proto
from server.wire.legs import leg_item_to_proto, leg_to_proto
from tests.integration.services_rig import (
    HERE,
    PEER,
    SHOP,
    THERE,
    Rig,
    refusal_of,
)
from tests.local_cells import deposit, request, until

Log: TypeAlias = grpc.aio.UnaryStreamCall[event_pb2.SubscribeRequest, event_pb2.SubscribeResponse]


# --- legs ---


def credit(rig: Rig) -> CreditPending:
    ids = {"auction_id": UUID(int=7), "clearing_id": UUID(int=8)}
    return CreditPending(user_id=rig.ann, amount=Money("USD", 10), from_cell=THERE, **ids)


def leg_call(rig: Rig, action: LegAction, orchestrator: str = THERE, leg: str = "credit-in") -> LegCall:
    leg_id = LegId(UUID(int=9), leg, 1)
    return LegCall(leg_id=leg_id, action=action, orchestrator=orchestrator, causation_id=rig.ben, user_id=rig.ann)


async def test_a_leg_is_taken_once_and_undone_once(rig: Rig) -> None:
    """Sent again, a leg and its compensation get their first answers."""
    leg = leg_to_proto(leg_call(rig, credit(rig)))
    applied = [await rig.ask("ApplyLeg", leg=leg) for _ in range(2)]
    assert applied[0].event_id == applied[1].event_id
    undone = [await rig.ask("CompensateLeg", leg=leg) for _ in range(2)]
    assert {answer.result for answer in undone} == {settlement_pb2.COMPENSATION_RESULT_UNDONE}
    assert undone[0].event_id == undone[1].event_id != applied[0].event_id


@pytest.mark.parametrize("in_batch", [False, True])
async def test_a_leg_has_the_time_at_which_it_was_sent(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, *, in_batch: bool
) -> None:
    """From the metadata, by the clock of the cell that sent it."""
    taken: list[Command] = []
    execute = Cell.execute

    async def noted(self: Cell, request: CommandRequest) -> Outcome:
        taken.append(request.command)
        return await execute(self, request)

    monkeypatch.setattr(Cell, "execute", noted)
    call = leg_call(rig, credit(rig))
    metadata = (*PEER, (STAMP_KEY, str(Stamp(1_234, 5).pack())))
    if in_batch:
        items = [leg_item_to_proto(call, Direction.ACTION)]
        await rig.ask("BatchLegs", items=items, by=metadata)
    else:
        await rig.ask("ApplyLeg", leg=leg_to_proto(call), by=metadata)
    assert [command.sent_ms for command in taken if isinstance(command, ApplyLeg)] == [1_234]


async def test_a_compensation_of_something_else_undoes_nothing(rig: Rig) -> None:
    """What was not done in these words has not been done: the late action is barred, and no account changes."""
    await rig.ask("ApplyLeg", leg=leg_to_proto(leg_call(rig, credit(rig))))
    other = leg_to_proto(leg_call(rig, replace(credit(rig), amount=Money("USD", 9))))
    undone = await rig.ask("CompensateLeg", leg=other)
    assert undone.result == settlement_pb2.COMPENSATION_RESULT_TOMBSTONED
    assert (await rig.cell.account(rig.ann)).state.balance("USD").pending_minor == 10


async def test_a_compensation_that_comes_first_bars_the_leg(rig: Rig) -> None:
    """It leaves a tombstone, and the late action is refused."""
    leg = leg_to_proto(leg_call(rig, credit(rig)))
    early = await rig.ask("CompensateLeg", leg=leg)
    assert early.result == settlement_pb2.COMPENSATION_RESULT_TOMBSTONED
    late = await refusal_of(rig.ask("ApplyLeg", leg=leg))
    assert late.reason == "LEG_CANCELLED"


async def test_a_cell_speaks_for_its_own_sagas_alone(rig: Rig) -> None:
    """A peer may not pass for another one, not even for this cell itself."""
    before = await rig.store.head()
    for orchestrator in (HERE, "ap-tokyo"):
        leg = leg_to_proto(leg_call(rig, credit(rig), orchestrator))
        apply = rig.ask("ApplyLeg", leg=leg)
        assert isinstance(await refusal_of(apply), NotPermitted)
        compensate = rig.ask("CompensateLeg", leg=leg)
        assert isinstance(await refusal_of(compensate), NotPermitted)
    assert (await rig.store.head()).position == before.position


# --- the log ---


async def read_items(call: Log, count: int) -> list[event_pb2.SubscribeResponse]:
    async with asyncio.timeout(10):
        items = [await call.read() for _ in range(count)]
    # At its end a stream reads as EOF.
    return [item for item in items if isinstance(item, event_pb2.SubscribeResponse)]


async def test_a_subscriber_catches_up_and_then_follows(rig: Rig) -> None:
    """All that was, then caught_up once, then what comes: no position is left out."""
    head = (await rig.store.head()).position
    call = rig.send(event_pb2.SubscribeRequest(), by=SHOP)
    items = await read_items(call, head + 1)
    assert [item.event.position for item in items[:-1]] == list(range(1, head + 1))
    assert items[-1].caught_up.position == head
    await rig.cell.execute(request(deposit(rig.ann, 7)))
    event = (await read_items(call, 1))[0].event
    assert (event.position, event.event_type, event.cell) == (head + 1, "DEPOSITED", HERE)
    assert [(line.account, line.amount_minor) for line in event.postings] == [
        (f"users/{rig.ann}/available", 7),
        ("external", -7),
    ]
    call.cancel()


async def test_a_subscriber_gets_what_it_asked_for(rig: Rig) -> None:
    """The filter leaves out the rest, and the position where to start is kept."""
    wanted = event_pb2.EventFilter(event_types=["DEPOSITED"], aggregate_id=str(rig.ben))
    request = event_pb2.SubscribeRequest(from_position=2, filter=wanted)
    call = rig.send(request, by=SHOP)
    event, caught_up = await read_items(call, 2)
    assert (event.event.aggregate_id, event.event.event_type) == (str(rig.ben), "DEPOSITED")
    assert caught_up.HasField("caught_up")
    call.cancel()


async def test_progress_is_told_to_whoever_asks_for_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no event matches, it tells from where to go on; a client that does not know of it is not sent it."""
    monkeypatch.setattr("cells.log.subscriptions.PROGRESS_S", 0.0)
    nothing = event_pb2.EventFilter(event_types=["AUCTION_CREATED"])
    knowing = rig.send(event_pb2.SubscribeRequest(filter=nothing, progress=True), by=SHOP)
    unknowing = rig.send(event_pb2.SubscribeRequest(filter=nothing), by=SHOP)
    head = (await rig.store.head()).position
    told = await read_items(knowing, 3)
    assert told[0].caught_up.position == head
    assert [item.progress.position for item in told[1:]] == [head, head]
    await rig.auction()
    first, event = await read_items(unknowing, 2)
    assert first.HasField("caught_up")
    assert event.event.event_type == "AUCTION_CREATED"
    knowing.cancel()
    unknowing.cancel()


class Counted:
    """Counts the log's open readers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = 0
        read = Subscriptions.read

        async def counted(
            log: Subscriptions, *, from_position: int, event_filter: EventFilter
        ) -> AsyncGenerator[EventRow | CaughtUp | Progress, None]:
            self.open += 1
            try:
                async for item in read(log, from_position=from_position, event_filter=event_filter):
                    yield item
            finally:
                self.open -= 1

        monkeypatch.setattr(Subscriptions, "read", counted)


async def test_a_subscriber_that_goes_leaves_nothing_behind(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled stream ends at once in the cell, be it waiting for news or in the middle of the log."""
    readers = Counted(monkeypatch)
    calls = [rig.send(event_pb2.SubscribeRequest(), by=SHOP) for _ in range(5)]
    await asyncio.gather(*(read_items(call, 1 + number) for number, call in enumerate(calls)))
    await until(lambda: readers.open == 5)
    for call in calls:
        call.cancel()
    await until(lambda: readers.open == 0)


class Forgetful(EventServicer):
    """Leaves the log's generator to the garbage collector."""

    async def Subscribe(
        self, request: event_pb2.SubscribeRequest, _context: Context
    ) -> AsyncGenerator[event_pb2.SubscribeResponse, None]:
        self.items = self._cell.subscribe(from_position=1)
        async for item in self.items:
            yield item_to_proto(item, self._cell.name)


@pytest.mark.parametrize(("kind", "left"), [(EventServicer, 0), (Forgetful, 1)])
async def test_closing_a_stream_closes_the_log(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, kind: type[EventServicer], left: int
) -> None:
    """The servicer closes what it reads from, itself; one that does not is found out."""
    readers = Counted(monkeypatch)
    servicer = kind(rig.cell, rig.history)
    enter_call("/cellbook.v1.EventService/Subscribe", Principal(role=Role.AUDITOR, name="anna"), None)
    stream = servicer.Subscribe(event_pb2.SubscribeRequest(), cast("Context", None))
    await anext(stream)
    await stream.aclose()
    assert readers.open == left
    if isinstance(servicer, Forgetful):
        await servicer.items.aclose()
