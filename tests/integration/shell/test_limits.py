"""What one process takes at once: of calls, streams, connections and bytes; whoever wants more is told so."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeAlias
from unittest.mock import Mock

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2

from cellbook.v1 import event_pb2, ledger_pb2
from cellbook.v1.event_pb2_grpc import EventServiceStub
from cellbook.v1.ledger_pb2_grpc import LedgerServiceStub
from server.shell.calls import connections
from server.shell.calls.connections import Connections
from server.shell.calls.denials import TooManyStreams
from server.shell.calls.limits import STREAMS_PERSON, Throttle, streams_budget
from server.shell.calls.statuses import DETAILS_KEY, refusal_in
from server.shell.identity.principal import Principal, Role
from server.shell.settings.addresses import Address, parse_address
from tests.integration.services_rig import refusal_of, status_of
from tests.integration.shell.half_open import HalfOpen, connected
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
    refused = await refusal_of(subscribed(shell, metadata))
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
        late = LedgerServiceStub(channels[3]).GetBalance(request, metadata=SERVICE, timeout=1)
        assert await status_of(late) in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
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
        assert await status_of(call) is grpc.StatusCode.RESOURCE_EXHAUSTED
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


# --- connections from one address, and calls of nobody over one connection ---


BALANCE = "/cellbook.v1.LedgerService/GetBalance"
ME = (("cellbook-principal", f"user/{USER}"),)
PATIENCE_S = 20.0


def address_of(shell: Shell) -> Address:
    return parse_address(str(shell.host.address))


async def until_cut(attackers: list[HalfOpen], at_most: int) -> None:
    """Until no more than so many are connected."""
    async with asyncio.timeout(PATIENCE_S):
        while sum(not attacker.closed.is_set() for attacker in attackers) > at_most:  # noqa: ASYNC110 - each has its own
            await asyncio.sleep(0.02)


async def test_a_connection_of_nobody_is_cut(tmp_path: Path) -> None:
    """After so many denied calls, with what still waited on it; others go on, also one with a few bad calls."""
    async with running(tmp_path) as shell, connected(address_of(shell)) as bad, connected(address_of(shell)) as mixed:
        mixed.send(BALANCE, connections.DENIED_MAX // 2)
        bad.send(BALANCE, 10 * connections.DENIED_MAX)
        await asyncio.wait_for(bad.closed.wait(), PATIENCE_S)
        assert (await shell.balance(ME, PATIENCE_S)).user_id == USER
        assert not mixed.closed.is_set()


async def test_calls_of_somebody_make_up_for_calls_of_nobody(tmp_path: Path) -> None:
    """A client that passes on others' calls may have as many bad ones as good ones."""
    async with running(tmp_path) as shell, connected(address_of(shell)) as client:
        for _ in range(4):
            client.send(BALANCE, connections.DENIED_MAX // 2)
            client.send(BALANCE, connections.DENIED_MAX // 2, SERVICE, content=b"")
            async with asyncio.timeout(PATIENCE_S):
                while client.held:  # noqa: ASYNC110 - the server tells nobody
                    await asyncio.sleep(0.01)
        assert not client.closed.is_set()


async def test_one_address_does_not_take_all_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those beyond its share are cut, the newest first: the ones that it had go on."""
    monkeypatch.setattr(connections, "POLL_S", 0.1)
    async with running(tmp_path, address_connections_max=6) as shell, AsyncExitStack() as stack:
        assert (await shell.balance()).user_id == USER
        first = [await stack.enter_async_context(connected(address_of(shell))) for _ in range(4)]
        async with asyncio.timeout(PATIENCE_S):
            while len(shell.host._connections._known) < 5:  # noqa: ASYNC110 - a look is due
                await asyncio.sleep(0.02)
        more = [await stack.enter_async_context(connected(address_of(shell))) for _ in range(10)]
        await until_cut(more, 1)
        assert not any(attacker.closed.is_set() for attacker in first)
        assert (await shell.balance(timeout_s=PATIENCE_S)).user_id == USER


@pytest.mark.parametrize(
    ("peer", "remote"),
    [
        ("ipv4:10.0.0.1:5001", Address("10.0.0.1", 5001)),
        ("ipv6:%5B2001:db8::1%5D:5001", Address("2001:db8::1", 5001)),
        ("ipv6:[::ffff:10.0.0.1]:5001", Address("10.0.0.1", 5001)),
        ("unix:/tmp/x", None),
        ("", None),
    ],
)
def test_peers_are_named_as_grpc_names_them(peer: str, remote: Address | None) -> None:
    """One name for each, whichever family of addresses it came by."""
    assert connections._remote(peer) == remote


def test_what_is_counted_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection that was counted longest ago makes room."""
    monkeypatch.setattr(connections, "COUNTED_MAX", 3)
    bound = Connections(of_one_max=0)
    for port in (1, 2, 3, 1, 4):
        bound.denied(Mock(**{"auth_context.return_value": {}, "peer.return_value": f"ipv4:10.0.0.1:{port}"}))
    assert [address.port for address in bound._denied] == [3, 1, 4]


def test_who_has_a_certificate_is_not_cut() -> None:
    """A router passes on the calls of many, and some of theirs may be nobody's."""
    bound = Connections(of_one_max=0)
    for _ in range(2 * connections.DENIED_MAX):
        known = {"auth_context.return_value": {"x509_pem_cert": [b""]}, "peer.return_value": "ipv4:10.0.0.1:1"}
        bound.denied(Mock(**known))
    assert not bound._to_cut
