"""Who may call what, over a real socket."""

from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from cellbook.v1 import ledger_pb2, ledger_pb2_grpc
from server.shell.calls.guard import CallGuard
from server.shell.calls.statuses import refusal_in
from server.shell.channels.client import open_channel
from server.shell.hosting.host import GrpcHost
from server.shell.identity.principal import Role
from tests.integration.services_rig import status_of
from tests.integration.shell.shell_host import (
    HEALTH,
    LEDGER,
    PEER,
    REFLECTION,
    SERVICE,
    USER,
    Pairs,
    Shell,
    ledger_servicer,
    running,
    settings_in,
)


async def test_a_permitted_call_goes_through(shell: Shell) -> None:
    """The handler learns who calls and how long it may take."""
    assert (await shell.balance()).user_id == USER
    assert shell.ledger.principals == ["service/shop"]
    [timeout_s] = shell.ledger.timeouts_s
    assert timeout_s is not None
    # A deadline travels as a timeout of three digits, rounded up: 10.0 s may arrive as 10.1 s.
    assert 0 < timeout_s < 10.2


@pytest.mark.parametrize(
    ("metadata", "code", "reason"),
    [
        ((), grpc.StatusCode.UNAUTHENTICATED, "PRINCIPAL_MISSING"),
        ((("cellbook-principal", ""),), grpc.StatusCode.UNAUTHENTICATED, "PRINCIPAL_MISSING"),
        ((("cellbook-principal", "king/george"),), grpc.StatusCode.UNAUTHENTICATED, "PRINCIPAL_INVALID"),
        ((("cellbook-principal", "user/me"),), grpc.StatusCode.UNAUTHENTICATED, "PRINCIPAL_INVALID"),
        (SERVICE + PEER, grpc.StatusCode.UNAUTHENTICATED, "PRINCIPAL_INVALID"),
        (PEER, grpc.StatusCode.PERMISSION_DENIED, "NOT_PERMITTED"),
        (
            (("cellbook-principal", "user/0198c0de-0000-7000-8000-000000000002"),),
            grpc.StatusCode.PERMISSION_DENIED,
            "NOT_YOUR_ACCOUNT",
        ),
    ],
)
async def test_who_may_not_is_told_so(shell: Shell, metadata: Pairs, code: grpc.StatusCode, reason: str) -> None:
    """With no principal, a broken one, the wrong role or for another user, no handler is reached."""
    error = await shell.failure(metadata)
    refused = refusal_in(error)
    assert (error.code(), refused and refused.reason) == (code, reason)
    assert shell.ledger.principals == []


@pytest.mark.parametrize("said", [USER, USER.upper()])
async def test_a_user_may_act_for_itself(shell: Shell, said: str) -> None:
    """However its id is spelt."""
    await shell.balance((("cellbook-principal", f"user/{said}"),))
    assert shell.ledger.principals == [f"user/{USER}"]


async def test_without_a_policy_everybody_is_denied(tmp_path: Path) -> None:
    """Deny by default: a method that nobody thought of is open to no role at all."""
    guard = CallGuard({})
    host = GrpcHost(settings_in(tmp_path), name="us-east", guard=guard)
    ledger_pb2_grpc.add_LedgerServiceServicer_to_server(ledger_servicer(), host.server)
    await host.start([LEDGER])
    async with open_channel(str(host.address)) as channel:
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        for role in Role:
            name = USER if role is Role.USER else "x"
            asked = ledger_pb2.GetBalanceRequest(user_id=USER)
            call = stub.GetBalance(asked, metadata=(("cellbook-principal", f"{role}/{name}"),), timeout=10)
            assert await status_of(call) is grpc.StatusCode.PERMISSION_DENIED
    await host.stop()


async def test_health_and_reflection_are_open(shell: Shell) -> None:
    """They need no principal; reflection names our services."""
    health = HEALTH(shell.channel)
    for name in ("", LEDGER):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflection = REFLECTION(shell.channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="*")
    async for answer in reflection.ServerReflectionInfo(iter([asked]), timeout=10):
        assert LEDGER in [service.name for service in answer.list_services_response.service]


async def test_reflection_can_be_switched_off(tmp_path: Path) -> None:
    """Then the service is not there at all."""
    async with running(tmp_path, reflection=False) as shell:
        reflection = REFLECTION(shell.channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="*")
        call = reflection.ServerReflectionInfo(iter([asked]), timeout=10)
        assert await status_of(anext(aiter(call))) is grpc.StatusCode.UNIMPLEMENTED
