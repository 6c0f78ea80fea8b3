"""Clocks and streams, over a real socket."""

import asyncio
from contextlib import suppress
from pathlib import Path

import grpc
import grpc.aio
import pytest

from cellbook.v1 import event_pb2, ledger_pb2
from cells.domain.refusals import (
    BidTooLow,
    ClockOffsetExceeded,
    FieldInvalid,
)
from server.shell.calls.statuses import refusal_from, refusal_in
from server.shell.channels.client import Caller
from server.shell.identity.principal import Principal, Role
from tests.integration.services_rig import as_user, status_of
from tests.integration.shell.shell_host import (
    PEER,
    SERVICE,
    USER,
    Clock,
    Pairs,
    Shell,
    refuse,
    running,
)


async def test_clocks_are_exchanged_with_peers_alone(tmp_path: Path) -> None:
    """A peer's stamp is taken in and ours goes back; a user's is not looked at and gets none."""
    clock = Clock()
    async with running(tmp_path, clock=clock) as shell:
        request = ledger_pb2.GetCommandRequest()
        call = shell.stub.GetCommand(request, metadata=(*PEER, ("cellbook-hlc", "7")), timeout=10)
        await call
        assert clock.heard == [("peer/eu-west", "7")]
        assert ("cellbook-hlc", "100") in tuple(await call.trailing_metadata())

        request_of_user = ledger_pb2.GetBalanceRequest(user_id=USER)
        metadata = (("cellbook-principal", f"user/{USER}"), ("cellbook-hlc", "9999"))
        other = shell.stub.GetBalance(request_of_user, metadata=metadata, timeout=10)
        await other
        assert clock.heard == [("peer/eu-west", "7")]
        assert "cellbook-hlc" not in [key for key, _ in tuple(await other.trailing_metadata())]


async def test_a_refusal_carries_the_clock_too(tmp_path: Path) -> None:
    """Also a no comes after what it answers."""
    async with running(tmp_path, clock=Clock()) as shell:
        shell.ledger.answer = refuse(BidTooLow(amount_minor=1, least_minor=2, currency="USD"))
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await shell.stub.GetCommand(ledger_pb2.GetCommandRequest(), metadata=PEER, timeout=10)
        assert ("cellbook-hlc", "100") in tuple(failed.value.trailing_metadata())
        assert isinstance(refusal_from(failed.value), BidTooLow)


async def test_a_refused_clock_refuses_the_call(tmp_path: Path) -> None:
    """The handler is not reached by a peer whose clock is off."""
    clock = Clock()
    clock.refusal = ClockOffsetExceeded(peer="eu-west", offset_ms=900, max_offset_ms=500)
    async with running(tmp_path, clock=clock) as shell:
        shell.ledger.answer = refuse(AssertionError("reached"))
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await shell.stub.GetCommand(ledger_pb2.GetCommandRequest(), metadata=PEER, timeout=10)
        assert failed.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert isinstance(refusal_in(failed.value), ClockOffsetExceeded)
        assert refusal_from(failed.value) is None


async def test_a_caller_sends_and_takes_in_clocks(tmp_path: Path) -> None:
    """Both ways, from answers and from refusals."""
    theirs, ours = Clock("100"), Clock("200")
    caller = Caller(Principal(role=Role.PEER, name="eu-west"), ours)
    async with running(tmp_path, clock=theirs) as shell:
        method = shell.stub.GetCommand
        await caller.call(method, ledger_pb2.GetCommandRequest(), to="us-east", timeout_s=10)
        shell.ledger.answer = refuse(BidTooLow(amount_minor=1, least_minor=2, currency="USD"))
        with pytest.raises(grpc.aio.AioRpcError):
            await caller.call(method, ledger_pb2.GetCommandRequest(), to="us-east", timeout_s=10)
    assert theirs.heard == [("peer/eu-west", "200")] * 2
    assert ours.heard == [("peer/us-east", "100")] * 2


async def test_an_answer_with_a_broken_clock_is_unknown(tmp_path: Path) -> None:
    """It may have been done over there: the caller gets the clock's refusal, which is not final."""
    ours = Clock()
    ours.refusal = ClockOffsetExceeded(peer="us-east", offset_ms=900, max_offset_ms=500)
    caller = Caller(Principal(role=Role.PEER, name="eu-west"), ours)
    async with running(tmp_path, clock=Clock()) as shell:
        with pytest.raises(ClockOffsetExceeded) as refused:
            await caller.call(shell.stub.GetCommand, ledger_pb2.GetCommandRequest(), to="us-east", timeout_s=10)
    assert not refused.value.final


async def subscribe(shell: Shell, metadata: Pairs = SERVICE) -> list[int]:
    call = shell.event_stub.Subscribe(event_pb2.SubscribeRequest(), metadata=metadata, timeout=10)
    return [response.event.position async for response in call]


async def test_a_stream_is_guarded_too(shell: Shell) -> None:
    """It goes through for those who may, and is denied to others."""
    assert await subscribe(shell) == [1, 2, 3]
    assert await status_of(subscribe(shell, as_user(USER))) is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("count", [0, 3])
async def test_a_refusal_in_a_stream_arrives(shell: Shell, count: int) -> None:
    """Before the first message and after some."""
    shell.events.count = count
    shell.events.then = FieldInvalid(field="from_position", problem="negative", value=-1)
    call = shell.event_stub.Subscribe(event_pb2.SubscribeRequest(), metadata=SERVICE, timeout=10)
    received = [(await anext(aiter(call))).event.position for _ in range(count)]
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await anext(aiter(call))
    assert received == list(range(1, count + 1))
    assert isinstance(refusal_from(failed.value), FieldInvalid)


async def test_a_stream_ends_when_its_client_goes(shell: Shell) -> None:
    """The handler's cleanup runs at once, not when something is collected."""
    shell.events.wait = True
    call = shell.event_stub.Subscribe(event_pb2.SubscribeRequest(), metadata=SERVICE)
    assert (await anext(aiter(call))).event.position == 1
    call.cancel()
    await asyncio.wait_for(shell.events.closed.wait(), 5)


async def test_a_stream_gets_no_default_deadline(tmp_path: Path) -> None:
    """A subscription may go on for ever."""
    async with running(tmp_path, default_timeout_s=0.05) as shell:
        shell.events.wait = True
        call = shell.event_stub.Subscribe(event_pb2.SubscribeRequest(), metadata=SERVICE)
        for _ in range(3):
            await call.read()
        pending = asyncio.ensure_future(call.read())
        done, _ = await asyncio.wait([pending], timeout=0.3)
        assert not done
        call.cancel()
        with suppress(asyncio.CancelledError):
            await pending
