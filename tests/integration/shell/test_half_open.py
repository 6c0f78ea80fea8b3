"""Calls that send their headers and never their message keep nobody out: strangers' hold nothing, others' a while.

Each attack is made at full width, over a few connections, against bounds that are scaled down.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2

from cellbook.v1 import ledger_pb2, router_pb2_grpc
from server.cli.keys.authority import HOSTS, Authority, make_keys
from server.shell.calls import call as call_module
from server.shell.calls import limits
from server.shell.calls import open_calls as open_calls_module
from server.shell.calls.guard import CallGuard
from server.shell.calls.statuses import refusal_in
from server.shell.channels.client import open_cell_channel
from server.shell.hosting import host as hosting
from server.shell.identity.principal import Principal
from server.shell.postgres.embedded import EmbeddedPostgres
from server.shell.settings.addresses import Address, parse_address
from tests.integration.router.rig import Client, cells, router
from tests.integration.shell.half_open import HalfOpen, Pairs, connected
from tests.integration.shell.shell_host import HEALTH, SERVICE, USER, Shell, running
from tests.integration.shell.test_identity import balance, housed

BALANCE = "/cellbook.v1.LedgerService/GetBalance"
OPERATOR = (("cellbook-principal", "operator/olga"),)
ME = (("cellbook-principal", f"user/{USER}"),)
OTHER = (("cellbook-principal", "user/0198c0de-0000-7000-8000-000000000002"),)
# Where half-open calls are held, a fourth of those below take all that there is.
CALLS_MAX, CALLS_SHARED = 120, 80
CONNECTIONS, CALLS = 4, 100
# For an answer, and for half-open calls to be ended. The attack is made in waves of as many as gRPC lets wait.
PATIENCE_S = 30.0


@pytest.fixture
def scaled_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosting, "calls_max", lambda _: CALLS_MAX)
    monkeypatch.setattr(limits, "CALLS_SHARED", CALLS_SHARED)
    monkeypatch.setattr(limits, "CALLS_PERSON", 20)
    monkeypatch.setattr(call_module, "MESSAGE_S", 1.0)


@asynccontextmanager
async def attacked(
    address: Address, path: str = BALANCE, metadata: Pairs = (), *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[list[HalfOpen]]:
    """Half-open calls, wave by wave: what is not yet dealt with is never more than gRPC lets wait."""
    async with AsyncExitStack() as stack:
        attackers = [await stack.enter_async_context(connected(address, tls=tls)) for _ in range(CONNECTIONS)]
        for _ in range(CALLS // 50):
            for attacker in attackers:
                attacker.send(path, 50, metadata)
            await asyncio.sleep(0.05)
        yield attackers


async def ended(attackers: Sequence[HalfOpen]) -> None:
    """Until the server holds none of their calls."""
    async with asyncio.timeout(PATIENCE_S):
        while any(attacker.held for attacker in attackers):  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.02)


async def test_strangers_hold_nothing(tmp_path: Path, scaled_down: None) -> None:
    """They are answered without their message; an operator and a user are, while it goes on."""
    async with running(tmp_path) as shell, attacked(parse_address(str(shell.host.address))) as attackers:
        for who in (OPERATOR, ME):
            await shell.balance(who, PATIENCE_S)
        await ended(attackers)


async def test_without_a_bound_they_would_shut_it(
    tmp_path: Path, scaled_down: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ablation: where calls wait for as long as they like before it is known whose they are, nobody else gets in."""
    forever = asyncio.Event()

    async def waiting(*_: object) -> None:
        await forever.wait()

    async with running(tmp_path) as shell, AsyncExitStack() as stack:
        with monkeypatch.context() as patched:
            patched.setattr(shell.guard, "_caller", waiting)
            attackers = await stack.enter_async_context(attacked(parse_address(str(shell.host.address))))
            async with asyncio.timeout(PATIENCE_S):
                while sum(attacker.held for attacker in attackers) > CALLS_MAX:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.02)
        error = await shell.failure(OPERATOR)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("path", [BALANCE, "/cellbook.v1.EventService/Subscribe"])
async def test_a_caller_holds_its_own_share_and_not_for_long(tmp_path: Path, scaled_down: None, path: str) -> None:
    """Who has proven who it is may have some calls under way; one without a message ends, and costs others nothing."""
    who = OTHER if path == BALANCE else SERVICE
    async with running(tmp_path) as shell:
        shell.guard.streams_budget = limits.streams_budget(40)
        async with attacked(parse_address(str(shell.host.address)), path, who) as attackers:
            for each in (OPERATOR, ME):
                await shell.balance(each, PATIENCE_S)
            await ended(attackers)
        async with asyncio.timeout(PATIENCE_S):
            while shell.guard.calls_budget.taken or shell.guard.streams_budget.taken:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)


async def test_operators_have_room_of_their_own(tmp_path: Path, scaled_down: None) -> None:
    """Also when people and programs have taken all of theirs; a program gets no more than half."""
    async with running(tmp_path) as shell:
        answered = asyncio.Event()

        async def slow() -> ledger_pb2.GetBalanceResponse:
            await answered.wait()
            return ledger_pb2.GetBalanceResponse()

        shell.ledger.answer = slow
        shops = [(("cellbook-principal", f"service/shop{number}"),) for number in range(2)]
        calls = [asyncio.ensure_future(shell.balance(shop, 30)) for shop in shops for _ in range(CALLS_SHARED // 2)]
        async with asyncio.timeout(PATIENCE_S):
            while len(shell.ledger.principals) < CALLS_SHARED:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)
        for who, whose in ((shops[0], "service/shop0"), (ME, "all callers together")):
            refused = refusal_in(await shell.failure(who))
            assert refused is not None
            assert (refused.reason, refused.facts["principal"]) == ("TOO_MANY_CALLS", whose)
        operator = asyncio.ensure_future(shell.balance(OPERATOR, 30))
        async with asyncio.timeout(PATIENCE_S):
            while len(shell.ledger.principals) == CALLS_SHARED:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)
        answered.set()
        await asyncio.gather(*calls, operator)


async def test_a_call_without_a_message_is_told_so(tmp_path: Path) -> None:
    """One that ends without any, and one that is no message; as definite refusals."""
    async with running(tmp_path) as shell:
        # Their types say that nothing can be sent by them.
        silent: Any = shell.channel.stream_unary(BALANCE)
        junk: Any = shell.channel.unary_unary(BALANCE)
        for call, request, reason in ((silent, iter(()), "MESSAGE_MISSING"), (junk, b"\xff\xff", "REQUEST_UNREADABLE")):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await call(request, metadata=SERVICE, timeout=10)
            refused = refusal_in(failed.value)
            assert (failed.value.code(), refused and refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)


# --- what anybody may call ----------------------------------------------------------------------------------

CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


async def open_calls(shell: Shell, at_most: int) -> None:
    """Until so many are under way, of those that need no identity."""
    async with asyncio.timeout(PATIENCE_S):
        while shell.guard.open_calls.held > at_most:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("path", [CHECK, WATCH, REFLECTION])
async def test_health_and_reflection_are_held_by_nobody_for_ever(
    tmp_path: Path, scaled_down: None, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """A few over each connection; without a message, or after their time, they end."""
    monkeypatch.setattr(open_calls_module, "REFLECTION_S", 1.0)
    async with running(tmp_path) as shell, attacked(parse_address(str(shell.host.address)), path) as attackers:
        await open_calls(shell, CONNECTIONS * open_calls_module.OPEN_CALLS_MAX)
        for who in (OPERATOR, ME):
            await shell.balance(who, PATIENCE_S)
        answer = await HEALTH(shell.channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        await ended(attackers)


async def test_a_watch_ends_after_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nobody keeps a connection by it that the server wants to end."""
    monkeypatch.setattr(open_calls_module, "WATCH_S", 0.2)
    async with running(tmp_path) as shell:
        told = [answer async for answer in HEALTH(shell.channel).Watch(health_pb2.HealthCheckRequest(), timeout=30)]
        assert [answer.status for answer in told] == [health_pb2.HealthCheckResponse.SERVING]


async def test_who_watches_and_does_not_read_keeps_nobody_from_hearing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server says that it does not lead, others hear it, and it stops in time."""
    monkeypatch.setattr(hosting, "_STOP_SLACK_S", 0.5)
    async with (
        running(tmp_path, drain_grace_ms=200) as shell,
        connected(parse_address(str(shell.host.address)), window=0) as attacker,
    ):
        attacker.send(WATCH, 1, content=b"")
        await asyncio.wait_for(_held(shell), PATIENCE_S)
        watching = HEALTH(shell.channel).Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
        shell.host.set_serving(serving=False)
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await asyncio.wait_for(shell.host.stop(), PATIENCE_S)


async def _held(shell: Shell) -> None:
    while not shell.guard.open_calls.held:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.02)


# --- at two listeners ---------------------------------------------------------------------------------------


async def test_what_fills_the_public_listener_leaves_the_other_alone(
    tmp_path: Path, scaled_down: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is that holds its calls: each listener has a server of its own."""
    authority = Authority(tmp_path / "keys")
    make_keys(authority, ["us-east"], HOSTS)
    forever, known = asyncio.Event(), CallGuard._caller

    async def slow(guard: CallGuard, method: str, context: Any) -> Principal:  # noqa: ANN401 - as of any call
        if not context.auth_context().get("x509_pem_cert"):
            await forever.wait()
        return await known(guard, method, context)

    monkeypatch.setattr(CallGuard, "_caller", slow)
    tls = ssl.create_default_context(cafile=str(authority.folder / "ca.pem"))
    tls.set_alpn_protocols(["h2"])
    async with (
        housed(tmp_path, authority) as house,
        attacked(parse_address(str(house.host.public_address)), tls=tls) as attackers,
    ):
        async with asyncio.timeout(PATIENCE_S):
            while sum(attacker.held for attacker in attackers) > CALLS_MAX:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)
        async with house.door("operator") as inside:
            await balance(inside)


async def test_strangers_hold_nothing_over_tls(tmp_path: Path, scaled_down: None) -> None:
    """At the public listener, where a token is all that there is; users with one are answered meanwhile."""
    authority = Authority(tmp_path / "keys")
    make_keys(authority, ["us-east"], HOSTS)
    tls = ssl.create_default_context(cafile=str(authority.folder / "ca.pem"))
    tls.set_alpn_protocols(["h2"])
    async with (
        housed(tmp_path, authority) as house,
        attacked(parse_address(str(house.host.public_address)), tls=tls) as attackers,
    ):
        async with house.door("operator") as inside, house.door(public=True) as public:
            await balance(inside)
            await balance(public, house.token(f"user/{USER}"))
        await ended(attackers)


# --- at the router ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "who"),
    [
        (BALANCE, ()),
        ("/cellbook.v1.LedgerService/Newest", ()),
        ("/cellbook.v1.EventService/Subscribe", ()),
        ("/cellbook.v1.RouterService/ResolveUser", ()),
        (BALANCE, OTHER),
        ("/cellbook.v1.LedgerService/Newest", (*OTHER, ("cellbook-cell", "us-east"))),
    ],
)
async def test_the_router_holds_none_either(
    cluster: EmbeddedPostgres, scaled_down: None, path: str, who: Pairs
) -> None:
    """Nor of the calls that it passes on, known methods and others, strangers' and users'."""
    name = f"router_{uuid4().hex}"
    await cluster.ensure_database(name)
    async with cells("us-east=us") as fakes, router(cluster.dsn(name), fakes) as client:
        user = str(uuid4())
        await client.register(user)
        # As docs/clients.md has it: a call that was not accepted within a second, and is dropped, is sent again.
        async with (
            open_cell_channel([client.address]) as channel,
            attacked(parse_address(client.address), path, who) as attackers,
        ):
            honest = Client(client.address, channel, router_pb2_grpc.RouterServiceStub(channel))
            assert await honest.list_cells(principal="operator/olga")
            assert (await honest.resolve(user, principal=f"user/{user}")).cell.name == "us-east"
            if "Newest" not in path or not who:
                await ended(attackers)
