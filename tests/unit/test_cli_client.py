"""The client's calling convention, with a fake cell."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc import aio
from grpc_status import rpc_status

from cellbook.v1 import event_pb2, ledger_pb2
from cellbook.v1.event_pb2_grpc import EventServiceServicer, add_EventServiceServicer_to_server
from cellbook.v1.ledger_pb2_grpc import LedgerServiceServicer, add_LedgerServiceServicer_to_server
from server.cli import client as under_test
from server.cli.client import BANK, CellStubs, Client, ClientError, LedgerRefusal, new_command_id

if TYPE_CHECKING:
    Context = aio.ServicerContext[object, object]

pytestmark = pytest.mark.asyncio

Answer = Callable[["Context"], Awaitable[None]]


def refuse(code: int, *details: Message) -> Answer:
    """An answer that ends the call with a status and its details."""

    async def abort(context: "Context") -> None:
        packed = []
        for detail in details:
            packed.append(Any())
            packed[-1].Pack(detail)
        status = status_pb2.Status(code=code, message="no", details=packed)
        await context.abort_with_status(rpc_status.to_status(status))

    return abort


def reason(name: str, domain: str = "cellbook.v1") -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=name, domain=domain, metadata={"least_minor": "7"})


async def hang(context: "Context") -> None:
    """An answer that never comes."""
    await asyncio.Event().wait()


class Cell(LedgerServiceServicer, EventServiceServicer):
    """Answers calls of Deposit with `answers` in turn, then accepts."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.asked: list[ledger_pb2.DepositRequest] = []
        self.principals: list[object] = []
        self.states: list[ledger_pb2.CommandState.ValueType] = []
        self.log: list[event_pb2.SubscribeResponse] = []

    async def Deposit(self, request: ledger_pb2.DepositRequest, context: "Context") -> ledger_pb2.DepositResponse:
        self.asked.append(request)
        self.principals.append(dict(context.invocation_metadata() or ())["cellbook-principal"])
        if self.answers:
            await self.answers.pop(0)(context)
        return ledger_pb2.DepositResponse(balance=ledger_pb2.Balance(available_minor=5))

    async def GetCommand(
        self, request: ledger_pb2.GetCommandRequest, context: "Context"
    ) -> ledger_pb2.GetCommandResponse:
        return ledger_pb2.GetCommandResponse(command_id=request.command_id, state=self.states.pop(0))

    async def Subscribe(
        self, request: event_pb2.SubscribeRequest, context: "Context"
    ) -> AsyncIterator[event_pb2.SubscribeResponse]:
        for item in self.log:
            yield item


async def deposit(client: Client, stubs: CellStubs) -> ledger_pb2.DepositResponse:
    request = ledger_pb2.DepositRequest(command_id=new_command_id())
    return await client.call(stubs.ledger.Deposit, request, BANK, stubs.ledger)


class Asking(NamedTuple):
    """A fake cell on a free port, and a client that knows it."""

    cell: Cell
    client: Client
    stubs: CellStubs

    async def deposit(self) -> ledger_pb2.DepositResponse:
        return await deposit(self.client, self.stubs)


@pytest.fixture
async def asking() -> AsyncIterator[Asking]:
    cell, server = Cell(), aio.server()  # type: ignore[abstract]
    add_LedgerServiceServicer_to_server(cell, server)
    add_EventServiceServicer_to_server(cell, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with Client(address) as client:
        yield Asking(cell, client, client.cell(name="us-east", region="us", address=address))
    await server.stop(None)


@pytest.mark.parametrize(
    "code", [code_pb2.UNAVAILABLE, code_pb2.ABORTED, code_pb2.DEADLINE_EXCEEDED, code_pb2.RESOURCE_EXHAUSTED]
)
async def test_an_unknown_outcome_is_asked_again_with_the_same_id(asking: Asking, code: int) -> None:
    """The very same request is sent until it is answered, by the same principal."""
    asking.cell.answers = [refuse(code, reason("UNAVAILABLE")), refuse(code)]
    reply = await asking.deposit()
    assert reply.balance.available_minor == 5
    assert asking.cell.asked == [asking.cell.asked[0]] * 3
    assert asking.cell.principals == [BANK] * 3
    assert asking.client.retries == 2


async def test_a_busy_cell_is_told_by_its_reason(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    """A balance under repair was once reported as RESOURCE_EXHAUSTED, like every busy cell."""
    monkeypatch.setattr(under_test, "PATIENCE_S", 0.0)
    asking.cell.answers = [refuse(code_pb2.RESOURCE_EXHAUSTED, reason("STATE_UNDER_REPAIR"))]
    with pytest.raises(ClientError, match="Deposit: STATE_UNDER_REPAIR:"):
        await asking.deposit()


async def test_the_time_that_the_cell_asks_for_is_waited(asking: Asking) -> None:
    """RetryInfo takes precedence over the client's own backoff."""
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(nanos=300_000_000))
    asking.cell.answers = [refuse(code_pb2.RESOURCE_EXHAUSTED, reason("QUEUE_FULL"), retry)]
    started = time.monotonic()
    await asking.deposit()
    assert time.monotonic() - started >= 0.3


async def test_a_call_that_hangs_is_given_up_and_sent_again(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every attempt has a deadline of its own."""
    monkeypatch.setattr(under_test, "ATTEMPT_S", 0.2)
    asking.cell.answers = [hang]
    await asking.deposit()
    assert len(asking.cell.asked) == 2


async def test_a_definite_no_is_not_asked_again(asking: Asking) -> None:
    """A refusal of our domain keeps its reason, message and facts, after one call."""
    asking.cell.answers = [refuse(code_pb2.FAILED_PRECONDITION, reason("BID_TOO_LOW"))]
    with pytest.raises(LedgerRefusal) as refusal:
        await asking.deposit()
    assert (refusal.value.reason, refusal.value.message) == ("BID_TOO_LOW", "no")
    assert refusal.value.facts == {"least_minor": "7"}
    assert len(asking.cell.asked) == 1


@pytest.mark.parametrize("details", [(), (reason("BID_TOO_LOW", domain="elsewhere.example"),), (reason("WRONG_CELL"),)])
async def test_a_no_without_our_word_is_a_failure(asking: Asking, details: tuple[Message, ...]) -> None:
    """Without ErrorInfo of our domain, or if it concerns location or identity, the ledger has not refused."""
    asking.cell.answers = [refuse(code_pb2.FAILED_PRECONDITION, *details)]
    with pytest.raises(ClientError, match=r"Deposit: (FAILED_PRECONDITION|WRONG_CELL): no"):
        await asking.deposit()


async def test_a_command_under_way_is_asked_after(asking: Asking) -> None:
    """While GetCommand reports it in progress nothing is sent; then the request fetches its stored answer."""
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(nanos=1))
    asking.cell.answers = [refuse(code_pb2.UNAVAILABLE, reason("IN_PROGRESS"), retry)]
    under_way = ledger_pb2.COMMAND_STATE_IN_PROGRESS
    asking.cell.states = [under_way, under_way, ledger_pb2.COMMAND_STATE_ACCEPTED]
    await asking.deposit()
    assert asking.cell.states == []
    assert len(asking.cell.asked) == 2


async def test_patience_ends(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a limited time without a definite answer the cell is named in an error."""
    monkeypatch.setattr(under_test, "PATIENCE_S", 0.3)
    asking.cell.answers = [refuse(code_pb2.UNAVAILABLE)] * 100
    with pytest.raises(ClientError, match="no definite answer within"):
        await asking.deposit()


async def test_the_log_is_read_up_to_where_it_has_caught_up(asking: Asking) -> None:
    """All events up to CaughtUp, and none after it."""
    event = event_pb2.SubscribeResponse(event=event_pb2.Event(position=1))
    asking.cell.log = [event, event_pb2.SubscribeResponse(caught_up=event_pb2.CaughtUp(position=1)), event]
    assert await asking.client.log(asking.stubs, event_pb2.EventFilter()) == [event.event]


async def test_a_log_that_ends_early_is_an_error(asking: Asking) -> None:
    """A stream that ends before CaughtUp may lack events: it is never taken for the whole log."""
    asking.cell.log = [event_pb2.SubscribeResponse(event=event_pb2.Event(position=1))]
    with pytest.raises(ClientError, match="before it had caught up"):
        await asking.client.log(asking.stubs, event_pb2.EventFilter())


async def test_command_ids_are_of_version_seven_and_in_order_of_time() -> None:
    """Version and variant as in RFC 9562, and the time first."""
    before = time.time_ns() // 1_000_000
    made = UUID(new_command_id())
    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert before <= made.int >> 80 <= time.time_ns() // 1_000_000


async def test_dead_ports_are_unknown_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    """If no process listens, the client gives up in time, and reports it."""
    monkeypatch.setattr(under_test, "PATIENCE_S", 0.3)
    async with Client("127.0.0.1:1") as client:
        stubs = client.cell(name="us-east", region="us", address="127.0.0.1:1")
        with pytest.raises(ClientError, match=grpc.StatusCode.UNAVAILABLE.name):
            await deposit(client, stubs)
