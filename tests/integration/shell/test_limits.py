"""What one process takes at once: of calls, streams, connections and bytes; whoever wants more is told so."""

import asyncio
from pathlib import Path
from typing import TypeAlias

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2

from cellbook.v1 import event_pb2, ledger_pb2
from cellbook.v1.event_pb2_grpc import EventServiceStub
from cellbook.v1.ledger_pb2_grpc import LedgerServiceStub
from server.shell.calls.denials import TooManyStreams
from server.shell.calls.limits import STREAMS_PERSON, Throttle, streams_budget
from server.shell.calls.statuses import DETAILS_KEY, refusal_in
from server.shell.identity.principal import Principal, Role
from tests.integration.shell.shell_host import HEALTH, SERVICE, USER, Pairs, Shell, running

OWN: Pairs = (("cellbook-principal", f"user/{USER}"),)


def retry_ms(error: grpc.aio.AioRpcError) -> int:
    """When to come again, as the details say."""
    retry = error_details_pb2.RetryInfo()
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            for detail in status_pb2.Status.FromString(value).details:
                detail.Unpack(retry)
    return retry.retry_delay.ToMilliseconds()


async def test_who_calls_too_often_is_told_when_to_come(tmp_path: Path) -> None:
    """RESOURCE_EXHAUSTED with the time, before a handler is reached; others are not kept waiting."""
    async with running(tmp_path) as shell:
        shell.guard.throttle = Throttle(user_calls_per_s=2)
        for _ in range(4):
            await shell.balance(OWN)
        error = await shell.failure(OWN)
        refused = refusal_in(error)
        assert (error.code(), refused and refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_EXCEEDED")
        assert 0 < retry_ms(error) <= 500
        await shell.balance(SERVICE)
        assert len(shell.ledger.principals) == 5
        await asyncio.sleep(retry_ms(error) / 1_000)
        await shell.balance(OWN)


async def test_streams_are_bounded(tmp_path: Path) -> None:
    """The one too many is turned away, and taken once another one has ended."""
    async with running(tmp_path) as shell:
        shell.guard.streams_budget, shell.events.wait = streams_budget(4), True
        calls = [await subscribed(shell) for _ in range(2)]
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await subscribed(shell)
        refused = refusal_in(failed.value)
        assert refused is not None
        assert (failed.value.code(), refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS")
        assert retry_ms(failed.value) == 1_000
        await shell.balance()
        calls[0].cancel()
        await asyncio.wait_for(shell.events.closed.wait(), 10)
        async with asyncio.timeout(10):
            while len(shell.guard.streams) > 1:  # noqa: ASYNC110 - the guard tells nobody
                await asyncio.sleep(0.01)
        calls.append(await subscribed(shell))
        for call in calls:
            call.cancel()


async def test_nobody_takes_all_streams(tmp_path: Path) -> None:
    """A user gets ten, a program half of all; for another one, and for operators, there are others."""
    shop, other = SERVICE, (("cellbook-principal", "auditor/anna"),)
    operator = (("cellbook-principal", "operator/olga"),)
    async with running(tmp_path) as shell:
        shell.guard.streams_budget, shell.events.wait = streams_budget(8), True
        calls = [await subscribed(shell, shop) for _ in range(4)]
        assert await too_many(shell, shop) == "service/shop"
        calls += [await subscribed(shell, other) for _ in range(4)]
        assert await too_many(shell, (("cellbook-principal", "service/x"),)) == "all callers together"
        calls.append(await subscribed(shell, operator))
        for call in calls:
            call.cancel()
    user, budget = Principal(role=Role.USER, name=USER), streams_budget()
    for _ in range(STREAMS_PERSON):
        budget.enter(user)
    with pytest.raises(TooManyStreams):
        budget.enter(user)
    budget.enter(Principal(role=Role.USER, name="another"))


async def too_many(shell: Shell, metadata: Pairs) -> str:
    """Who has as many streams as there may be."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await subscribed(shell, metadata)
    refused = refusal_in(failed.value)
    assert refused is not None
    assert refused.reason == "TOO_MANY_STREAMS"
    return str(refused.facts["principal"])


Stream: TypeAlias = "grpc.aio.UnaryStreamCall[event_pb2.SubscribeRequest, event_pb2.SubscribeResponse]"


async def subscribed(shell: Shell, metadata: Pairs = SERVICE) -> Stream:
    call = shell.event_stub.Subscribe(event_pb2.SubscribeRequest(), metadata=metadata)
    await call.read()
    return call


async def test_connections_are_bounded(tmp_path: Path) -> None:
    """Those that are there go on; one more is not let in until one of them has gone."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 200)]
    async with running(tmp_path, connections_max=3) as shell:
        address = str(shell.host.address)
        channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(4)]
        request = ledger_pb2.GetBalanceRequest(user_id=USER)
        for channel in channels[:3]:
            await LedgerServiceStub(channel).GetBalance(request, metadata=SERVICE, timeout=10)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await LedgerServiceStub(channels[3]).GetBalance(request, metadata=SERVICE, timeout=1)
        assert failed.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
        await channels[0].close()
        await LedgerServiceStub(channels[3]).GetBalance(request, metadata=SERVICE, timeout=20, wait_for_ready=True)
        for channel in channels:
            await channel.close()


@pytest.mark.parametrize(("size_bytes", "taken"), [(250 * 1024, True), (257 * 1024, False), (2 * 1024 * 1024, False)])
async def test_requests_are_bounded(tmp_path: Path, size_bytes: int, taken: bool) -> None:  # noqa: FBT001 - a parameter
    """256 KiB; much larger ones are not even read."""
    async with running(tmp_path) as shell, grpc.aio.insecure_channel(str(shell.host.address)) as channel:
        # An unknown field, which is ignored, but counted.
        request = ledger_pb2.GetBalanceRequest.FromString(b"\xfa\x7f" + _varint(size_bytes) + b"x" * size_bytes)
        call = LedgerServiceStub(channel).GetBalance(request, metadata=SERVICE, timeout=10)
        if taken:
            assert (await call).user_id == USER
            return
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call
        assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert shell.ledger.principals == []


def _varint(number: int) -> bytes:
    encoded = b""
    while number > 0x7F:
        encoded += bytes([number & 0x7F | 0x80])
        number >>= 7
    return encoded + bytes([number])


async def test_health_answers_whoever_else_is_turned_away(tmp_path: Path) -> None:
    """It is what decides whether a process is restarted: no bound of ours keeps it waiting."""
    async with running(tmp_path) as shell:
        shell.guard.streams_budget = streams_budget(0)
        shell.guard.throttle = Throttle(user_calls_per_s=0.001, client_calls_per_s=0.001)
        for _ in range(5):
            answer = await HEALTH(shell.channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError):
            await EventServiceStub(shell.channel).Subscribe(event_pb2.SubscribeRequest(), metadata=SERVICE).read()
