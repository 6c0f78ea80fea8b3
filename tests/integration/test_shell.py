"""The shell round a real gRPC service, over a real socket."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cellbook.v1 import event_pb2, event_pb2_grpc, ledger_pb2, ledger_pb2_grpc
from cells.domain.refusals import (
    BidTooLow,
    ClockOffsetExceeded,
    FieldInvalid,
    InsufficientFunds,
    QueueFull,
    Refused,
    WrongCell,
)
from server.policies import POLICIES
from server.shell.call import current_call
from server.shell.client import Caller, open_channel
from server.shell.config import HostSettings
from server.shell.hosting import REQUEST_BYTES_MAX, GrpcHost, ListenFailed
from server.shell.interceptors import CallGuard, ClockExchange, Context, Metadata
from server.shell.principal import Principal, Role
from server.shell.statuses import DETAILS_KEY, refusal_from, refusal_in

USER = "0198c0de-0000-7000-8000-000000000001"
SERVICE = (("cellbook-principal", "service/shop"),)
PEER = (("cellbook-principal", "peer/eu-west"),)
# Their types know nothing of grpc.aio.
HEALTH: Any = health_pb2_grpc.HealthStub
REFLECTION: Any = reflection_pb2_grpc.ServerReflectionStub
LEDGER = "cellbook.v1.LedgerService"

Pairs: TypeAlias = tuple[tuple[str, str], ...]
Answer = Callable[[], Awaitable[ledger_pb2.GetBalanceResponse]]


async def accept() -> ledger_pb2.GetBalanceResponse:
    return ledger_pb2.GetBalanceResponse(user_id=USER)


def refuse(refused: BaseException) -> Answer:
    async def answer() -> ledger_pb2.GetBalanceResponse:
        raise refused

    return answer


class Ledger(ledger_pb2_grpc.LedgerServiceServicer):
    """Answers GetBalance and OpenAccount as the test says."""

    def __init__(self) -> None:
        self.answer: Answer = accept
        self.principals: list[str] = []
        self.timeouts_s: list[float | None] = []

    async def GetBalance(
        self, request: ledger_pb2.GetBalanceRequest, context: Context
    ) -> ledger_pb2.GetBalanceResponse:
        call = current_call()
        self.principals.append(str(call.principal))
        self.timeouts_s.append(call.timeout_s)
        return await self.answer()

    async def OpenAccount(
        self, request: ledger_pb2.OpenAccountRequest, context: Context
    ) -> ledger_pb2.OpenAccountResponse:
        await self.answer()
        return ledger_pb2.OpenAccountResponse()


def ledger_servicer() -> Ledger:
    # What is not there is answered with UNIMPLEMENTED.
    return Ledger()  # type: ignore[abstract]


class Events(event_pb2_grpc.EventServiceServicer):
    """Streams `count` events, then raises or waits for ever."""

    def __init__(self) -> None:
        self.count = 3
        self.then: BaseException | None = None
        self.wait = False
        self.closed = asyncio.Event()

    async def Subscribe(
        self, request: event_pb2.SubscribeRequest, context: Context
    ) -> AsyncIterator[event_pb2.SubscribeResponse]:
        try:
            for position in range(1, self.count + 1):
                yield event_pb2.SubscribeResponse(event=event_pb2.Event(position=position))
            if self.wait:
                await asyncio.Event().wait()
            if self.then is not None:
                raise self.then
        finally:
            self.closed.set()


class Clock:
    """Writes down what it is told."""

    def __init__(self, mine: str = "100") -> None:
        self.mine = mine
        self.heard: list[tuple[str, str | bytes]] = []
        self.refusal: Refused | None = None

    def received(self, metadata: Metadata, principal: Principal) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.heard += [(str(principal), value) for key, value in metadata if key == "cellbook-hlc"]

    def outgoing(self) -> Sequence[tuple[str, str]]:
        return (("cellbook-hlc", self.mine),)


class Shell:
    """A host with both services, and a channel to it."""

    def __init__(self, settings: HostSettings, clock: ClockExchange | None, default_timeout_s: float) -> None:
        self.guard = CallGuard(POLICIES, clock=clock, default_timeout_s=default_timeout_s)
        self.host = GrpcHost(settings, name="us-east", guard=self.guard)
        self.ledger, self.events = ledger_servicer(), Events()
        ledger_pb2_grpc.add_LedgerServiceServicer_to_server(self.ledger, self.host.server)
        event_pb2_grpc.add_EventServiceServicer_to_server(self.events, self.host.server)

    async def start(self, *, serving: bool = True) -> None:
        await self.host.start([LEDGER, "cellbook.v1.EventService"], serving=serving)
        self.channel = open_channel(str(self.host.address))
        self.stub = ledger_pb2_grpc.LedgerServiceStub(self.channel)
        self.event_stub = event_pb2_grpc.EventServiceStub(self.channel)

    async def balance(
        self, metadata: Pairs = SERVICE, timeout_s: float | None = 10.0
    ) -> ledger_pb2.GetBalanceResponse:
        request = ledger_pb2.GetBalanceRequest(user_id=USER)
        return await self.stub.GetBalance(request, metadata=metadata, timeout=timeout_s)

    async def failure(
        self, metadata: Pairs = SERVICE, timeout_s: float | None = 10.0
    ) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await self.balance(metadata, timeout_s)
        return failed.value


def settings_in(folder: Path, **values: object) -> HostSettings:
    return HostSettings.model_validate({"data": folder, "drain_grace_ms": 5_000, **values})


@asynccontextmanager
async def running(
    folder: Path, *, clock: ClockExchange | None = None, default_timeout_s: float = 30.0, **values: object
) -> AsyncIterator[Shell]:
    shell = Shell(settings_in(folder, **values), clock, default_timeout_s)
    await shell.start()
    try:
        yield shell
    finally:
        await shell.channel.close()
        await shell.host.stop()


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    async with running(tmp_path) as started:
        yield started


# --- who may
# ----------------------------------------------------------------------------------------------------------


async def test_a_permitted_call_goes_through(shell: Shell) -> None:
    """The handler learns who calls and how long it may take."""
    assert (await shell.balance()).user_id == USER
    assert shell.ledger.principals == ["service/shop"]
    [timeout_s] = shell.ledger.timeouts_s
    assert timeout_s is not None
    assert 0 < timeout_s <= 10


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
async def test_who_may_not_is_told_so(
    shell: Shell, metadata: Pairs, code: grpc.StatusCode, reason: str
) -> None:
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
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await stub.GetBalance(
                    ledger_pb2.GetBalanceRequest(user_id=USER),
                    metadata=(("cellbook-principal", f"{role}/{name}"),),
                    timeout=10,
                )
            assert failed.value.code() is grpc.StatusCode.PERMISSION_DENIED
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
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await anext(aiter(call))
        assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


# --- how it ends
# ------------------------------------------------------------------------------------------------------


async def test_a_refusal_arrives_with_its_facts(shell: Shell) -> None:
    """Status, ErrorInfo and message as the table says, and the client can rebuild the refusal."""
    shell.ledger.answer = refuse(InsufficientFunds(needed_minor=5, available_minor=3, currency="USD"))
    error = await shell.failure()
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.details() == "5 USD minor units are needed and 3 are available"
    refused = refusal_from(error)
    assert isinstance(refused, InsufficientFunds)
    assert refused.facts == {"needed_minor": "5", "available_minor": "3", "currency": "USD"}


def details_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    [raw] = [value for key, value in error.trailing_metadata() if key == DETAILS_KEY]
    assert isinstance(raw, bytes)
    return status_pb2.Status.FromString(raw)


async def test_a_bad_field_is_named(shell: Shell) -> None:
    """A malformed request is answered with BadRequest and the field's name."""
    shell.ledger.answer = refuse(
        FieldInvalid(field="amount.currency", problem="expected three letters", value="x")
    )
    error = await shell.failure()
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    bad = error_details_pb2.BadRequest()
    assert details_of(error).details[1].Unpack(bad)
    assert [violation.field for violation in bad.field_violations] == ["amount.currency"]


async def test_a_busy_server_says_when_to_come_back(shell: Shell) -> None:
    """RetryInfo with the delay, and nothing definite."""
    shell.ledger.answer = refuse(QueueFull(queued=512, queued_bytes=1))
    error = await shell.failure()
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    retry = error_details_pb2.RetryInfo()
    assert details_of(error).details[1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 100
    assert refusal_from(error) is None


async def test_what_is_not_final_is_not_definite(shell: Shell) -> None:
    """WRONG_CELL can be read, but a saga must not take it for a no."""
    shell.ledger.answer = refuse(WrongCell(resource="users/x", cell="eu-west", here="us-east"))
    error = await shell.failure()
    assert isinstance(refusal_in(error), WrongCell)
    assert refusal_from(error) is None


async def test_the_unforeseen_is_internal_and_says_nothing_of_the_inside(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    """INTERNAL with an id that the log has too, and no ErrorInfo."""
    shell.ledger.answer = refuse(ZeroDivisionError("the secret"))
    error = await shell.failure()
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in (error.details() or "")
    correlation_id = (error.details() or "").rsplit(" ", 1)[1]
    assert correlation_id in capsys.readouterr().out
    assert refusal_in(error) is None


async def test_a_cancellation_inside_is_answered(shell: Shell) -> None:
    """A handler whose inner task was cancelled does not leave its client waiting."""
    shell.ledger.answer = refuse(asyncio.CancelledError())
    error = await asyncio.wait_for(shell.failure(timeout_s=60), 5)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert refusal_in(error) is None


async def test_without_the_guard_a_cancellation_leaves_the_client_waiting() -> None:
    """Ablation: grpc alone takes it for the client's own wish and answers nothing (grpc/grpc#29248)."""
    server = grpc.aio.server()
    ledger = ledger_servicer()
    reached = asyncio.Event()

    async def cancelled(
        request: ledger_pb2.GetBalanceRequest, context: Context
    ) -> ledger_pb2.GetBalanceResponse:
        reached.set()
        raise asyncio.CancelledError

    ledger.GetBalance = cancelled  # type: ignore[method-assign]
    ledger_pb2_grpc.add_LedgerServiceServicer_to_server(ledger, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with open_channel(f"127.0.0.1:{port}") as channel:
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.GetBalance(ledger_pb2.GetBalanceRequest(), timeout=1)
        assert reached.is_set()
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await server.stop(0)


async def test_a_client_that_goes_cancels_the_handler(shell: Shell) -> None:
    """What nobody waits for is given up."""
    started, ended = asyncio.Event(), asyncio.Event()

    async def endless() -> ledger_pb2.GetBalanceResponse:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    shell.ledger.answer = endless
    call = shell.stub.GetBalance(ledger_pb2.GetBalanceRequest(user_id=USER), metadata=SERVICE, timeout=60)
    await asyncio.wait_for(started.wait(), 5)
    call.cancel()
    await asyncio.wait_for(ended.wait(), 5)
    shell.ledger.answer = accept
    assert (await shell.balance()).user_id == USER


async def test_a_call_without_a_deadline_gets_one(tmp_path: Path) -> None:
    """A handler that never ends is given up after the default; the client learns that nothing is known."""

    async def endless() -> ledger_pb2.GetBalanceResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async with running(tmp_path, default_timeout_s=0.2) as shell:
        shell.ledger.answer = endless
        error = await asyncio.wait_for(shell.failure(timeout_s=None), 5)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "0.2 s" in (error.details() or "")
        assert refusal_in(error) is None
        assert shell.ledger.timeouts_s == [0.2]


async def test_a_request_that_is_too_large_is_refused(shell: Shell) -> None:
    """The bound is ours, not grpc's 4 MiB."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await shell.stub.GetBalance(
            ledger_pb2.GetBalanceRequest(user_id="x" * REQUEST_BYTES_MAX), metadata=SERVICE, timeout=10
        )
    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_long_fact_does_not_burst_the_headers(shell: Shell) -> None:
    """A client's own text comes back clipped, not as a protocol error."""
    shell.ledger.answer = refuse(FieldInvalid(field="description", problem="too long", value="ü" * 100_000))
    error = await shell.failure()
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    refused = refusal_from(error)
    assert refused is not None
    assert len(refused.message) < 1_000


# --- clocks
# -----------------------------------------------------------------------------------------------------------


async def test_clocks_are_exchanged_with_peers_alone(tmp_path: Path) -> None:
    """A peer's stamp is taken in and ours goes back; a user's is not looked at and gets none."""
    clock = Clock()
    async with running(tmp_path, clock=clock) as shell:
        request = ledger_pb2.OpenAccountRequest(user_id=USER)
        call = shell.stub.OpenAccount(request, metadata=(*PEER, ("cellbook-hlc", "7")), timeout=10)
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
            await shell.stub.OpenAccount(ledger_pb2.OpenAccountRequest(), metadata=PEER, timeout=10)
        assert ("cellbook-hlc", "100") in tuple(failed.value.trailing_metadata())
        assert isinstance(refusal_from(failed.value), BidTooLow)


async def test_a_refused_clock_refuses_the_call(tmp_path: Path) -> None:
    """The handler is not reached by a peer whose clock is off."""
    clock = Clock()
    clock.refusal = ClockOffsetExceeded(peer="eu-west", offset_ms=900, max_offset_ms=500)
    async with running(tmp_path, clock=clock) as shell:
        shell.ledger.answer = refuse(AssertionError("reached"))
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await shell.stub.OpenAccount(ledger_pb2.OpenAccountRequest(), metadata=PEER, timeout=10)
        assert failed.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert isinstance(refusal_in(failed.value), ClockOffsetExceeded)
        assert refusal_from(failed.value) is None


async def test_a_caller_sends_and_takes_in_clocks(tmp_path: Path) -> None:
    """Both ways, from answers and from refusals."""
    theirs, ours = Clock("100"), Clock("200")
    caller = Caller(Principal(role=Role.PEER, name="eu-west"), ours)
    async with running(tmp_path, clock=theirs) as shell:
        method = shell.stub.OpenAccount
        await caller.call(method, ledger_pb2.OpenAccountRequest(), to="us-east", timeout_s=10)
        shell.ledger.answer = refuse(BidTooLow(amount_minor=1, least_minor=2, currency="USD"))
        with pytest.raises(grpc.aio.AioRpcError):
            await caller.call(method, ledger_pb2.OpenAccountRequest(), to="us-east", timeout_s=10)
    assert theirs.heard == [("peer/eu-west", "200")] * 2
    assert ours.heard == [("peer/us-east", "100")] * 2


async def test_an_answer_with_a_broken_clock_is_unknown(tmp_path: Path) -> None:
    """It may have been done over there: the caller gets the clock's refusal, which is not final."""
    ours = Clock()
    ours.refusal = ClockOffsetExceeded(peer="us-east", offset_ms=900, max_offset_ms=500)
    caller = Caller(Principal(role=Role.PEER, name="eu-west"), ours)
    async with running(tmp_path, clock=Clock()) as shell:
        with pytest.raises(ClockOffsetExceeded) as refused:
            await caller.call(
                shell.stub.OpenAccount, ledger_pb2.OpenAccountRequest(), to="us-east", timeout_s=10
            )
    assert not refused.value.final


# --- streams
# ----------------------------------------------------------------------------------------------------------


async def subscribe(shell: Shell, metadata: Pairs = SERVICE) -> list[int]:
    call = shell.event_stub.Subscribe(event_pb2.SubscribeRequest(), metadata=metadata, timeout=10)
    return [response.event.position async for response in call]


async def test_a_stream_is_guarded_too(shell: Shell) -> None:
    """It goes through for those who may, and is denied to others."""
    assert await subscribe(shell) == [1, 2, 3]
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await subscribe(shell, (("cellbook-principal", f"user/{USER}"),))
    assert failed.value.code() is grpc.StatusCode.PERMISSION_DENIED


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
    caller = Caller(Principal(role=Role.AUDITOR, name="kpmg"))
    stream = caller.stream(shell.event_stub.Subscribe, event_pb2.SubscribeRequest())
    assert (await anext(stream)).event.position == 1
    await stream.aclose()  # type: ignore[attr-defined]
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


# --- listening and ending
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0"])
async def test_plain_text_stays_on_this_machine(tmp_path: Path, listen: str) -> None:
    """Listening for others is refused, and allowed where it is asked for by name."""
    with pytest.raises(ListenFailed, match="insecure_listen"):
        await Shell(settings_in(tmp_path, listen=listen), None, 30.0).start()
    if listen.startswith("0"):
        async with running(tmp_path, listen=listen, insecure_listen=True) as shell:
            assert shell.host.address is not None


async def test_a_taken_port_is_an_error(tmp_path: Path, shell: Shell) -> None:
    """Two processes do not share a port by accident; the error names it."""
    with pytest.raises(ListenFailed, match=str(shell.host.address)):
        await Shell(settings_in(tmp_path, listen=str(shell.host.address)), None, 30.0).start()


async def test_a_standby_listens_and_says_so(tmp_path: Path) -> None:
    """NOT_SERVING until told otherwise, for each service."""
    shell = Shell(settings_in(tmp_path), None, 30.0)
    await shell.start(serving=False)
    health = HEALTH(shell.channel)
    for serving, status in ((None, "NOT_SERVING"), (True, "SERVING"), (False, "NOT_SERVING")):
        if serving is not None:
            await shell.host.set_serving(serving=serving)
        for name in ("", LEDGER):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
            assert health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status) == status
    await shell.channel.close()
    await shell.host.stop()


async def test_the_ready_file_tells_where(tmp_path: Path) -> None:
    """It appears once the server serves, names process and address, and goes with it."""
    ready = tmp_path / "ready.json"
    async with running(tmp_path, ready_file=ready) as shell:
        said = json.loads(ready.read_text())
        assert said == {"pid": os.getpid(), "address": str(shell.host.address), "name": "us-east"}
        assert [path.name for path in tmp_path.iterdir()] == ["ready.json"]
    assert not ready.exists()


async def test_a_drain_lets_running_calls_finish(tmp_path: Path) -> None:
    """SIGTERM: what runs is answered, what is new is turned away, subscriptions end at once."""
    shell = Shell(settings_in(tmp_path), None, 30.0)
    await shell.start()
    served = asyncio.ensure_future(shell.host.run_until_signalled())
    started, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> ledger_pb2.GetBalanceResponse:
        started.set()
        await go_on.wait()
        return ledger_pb2.GetBalanceResponse(user_id=USER)

    shell.ledger.answer = slow
    shell.events.wait = True
    subscription = shell.event_stub.Subscribe(event_pb2.SubscribeRequest(), metadata=SERVICE)
    for _ in range(shell.events.count):
        await subscription.read()
    running_call = asyncio.ensure_future(shell.balance())
    await asyncio.wait_for(started.wait(), 5)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(shell.events.closed.wait(), 5)
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await subscription.read()
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    async with open_channel(str(shell.host.address)) as late:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await ledger_pb2_grpc.LedgerServiceStub(late).GetBalance(
                ledger_pb2.GetBalanceRequest(user_id=USER), metadata=SERVICE, timeout=5
            )
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not served.done()
    go_on.set()
    assert (await running_call).user_id == USER
    await asyncio.wait_for(served, 5)
    await shell.channel.close()


@pytest.mark.parametrize("hurry", [True, False])
async def test_a_drain_is_bounded(tmp_path: Path, hurry: bool) -> None:  # noqa: FBT001 - a parameter
    """A call that never ends is cancelled after the grace, or at a second signal."""
    shell = Shell(settings_in(tmp_path, drain_grace_ms=60_000 if hurry else 100), None, 30.0)
    await shell.start()
    served = asyncio.ensure_future(shell.host.run_until_signalled())
    started = asyncio.Event()

    async def endless() -> ledger_pb2.GetBalanceResponse:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    shell.ledger.answer = endless
    call = asyncio.ensure_future(shell.failure(timeout_s=120))
    await asyncio.wait_for(started.wait(), 5)
    shell.host.end()
    if hurry:
        shell.host.end()
    await asyncio.wait_for(served, 10)
    assert (await asyncio.wait_for(call, 5)).code() is not grpc.StatusCode.OK
    await shell.channel.close()
