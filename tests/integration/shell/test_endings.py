"""How a call ends, whatever the handler does, over a real socket."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from cellbook.v1 import event_pb2, ledger_pb2, ledger_pb2_grpc
from cellbook.v1.event_pb2_grpc import EventServiceStub
from cells import background
from cells.domain.refusals import (
    FieldInvalid,
    InsufficientFunds,
    QueueFull,
    WrongCell,
)
from server.cli.keys import authority as authorities
from server.cli.keys.authority import HOSTS, Authority, make_keys
from server.shell.calls import streams
from server.shell.calls.policy import BATCH_BYTES_MAX, REQUEST_BYTES_MAX
from server.shell.calls.statuses import DETAILS_KEY, refusal_from, refusal_in
from server.shell.channels.client import open_channel
from server.shell.identity import tokens
from server.shell.identity.principal import parse_principal
from server.shell.rpc import Context
from tests.integration.services_rig import refusal_of, status_of
from tests.integration.shell.shell_host import (
    SERVICE,
    USER,
    Pairs,
    Shell,
    accept,
    ledger_servicer,
    refuse,
    running,
)
from tests.integration.shell.test_identity import House, housed


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
    shell.ledger.answer = refuse(FieldInvalid(field="amount.currency", problem="expected three letters", value="x"))
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

    async def cancelled(request: ledger_pb2.GetBalanceRequest, context: Context) -> ledger_pb2.GetBalanceResponse:
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


@pytest.mark.parametrize("bytes_max", [REQUEST_BYTES_MAX, BATCH_BYTES_MAX])
async def test_a_request_that_is_too_large_is_refused(shell: Shell, bytes_max: int) -> None:
    """The bounds are ours, not grpc's 4 MiB: the method's own, and the largest of any method before it is read."""
    large = ledger_pb2.GetBalanceRequest(user_id="x" * bytes_max)
    call = shell.stub.GetBalance(large, metadata=SERVICE, timeout=10)
    assert await status_of(call) is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_long_fact_does_not_burst_the_headers(shell: Shell) -> None:
    """A client's own text comes back clipped, not as a protocol error."""
    shell.ledger.answer = refuse(FieldInvalid(field="description", problem="too long", value="ü" * 100_000))
    error = await shell.failure()
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    refused = refusal_from(error)
    assert refused is not None
    assert len(refused.message) < 1_000


# --- streams end with what has proven their caller ---


PATIENCE_S = 20.0


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """Looked after ten times as often as outside of tests."""
    monkeypatch.setattr(streams, "PROOF_CHECK_S", 0.1)
    made = Authority(tmp_path / "keys")
    make_keys(made, ["us-east"], HOSTS)
    return made


async def ending(channel: grpc.aio.Channel, metadata: Pairs = (), then: Callable[[], object] = lambda: None) -> str:
    """Why an endless stream ends that stands when `then` happens."""
    call = EventServiceStub(channel).Subscribe(event_pb2.SubscribeRequest(), metadata=metadata)
    for _ in range(3):
        await call.read()
    then()
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await asyncio.wait_for(call.read(), PATIENCE_S)
    refused = refusal_in(failed.value)
    assert (failed.value.code(), refused is not None) == (grpc.StatusCode.UNAUTHENTICATED, True)
    assert refused is not None
    return refused.message


def short(house: House, valid: timedelta) -> Pairs:
    made = house.authority.token(parse_principal("auditor/anna"), valid=valid)
    return (("authorization", f"Bearer {made}"),)


async def test_a_stream_ends_with_its_token(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its exp, and not before; one with a longer token goes on."""
    monkeypatch.setattr(tokens, "LEEWAY_S", 0.0)
    async with housed(tmp_path, authority) as house, house.door(public=True) as channel:
        house.events.wait = True
        lasting = EventServiceStub(channel).Subscribe(
            event_pb2.SubscribeRequest(), metadata=short(house, timedelta(hours=1))
        )
        await lasting.read()
        assert "expired" in await ending(channel, short(house, timedelta(seconds=2)))
        assert not lasting.done()
        lasting.cancel()


async def test_a_stream_ends_with_the_key_of_its_token(tmp_path: Path, authority: Authority) -> None:
    """As soon as the key set is read again without it."""
    async with housed(tmp_path, authority, jwt_refresh_s=1) as house, house.door(public=True) as channel:
        house.events.wait = True

        def retire() -> None:
            authority.rotate()
            authority.retire()

        async with background.running(*house.security.tasks):
            assert "key that signed it" in await ending(channel, short(house, timedelta(hours=1)), retire)


async def test_a_stream_ends_with_its_certificate(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection stands; a call over it is refused, too."""
    monkeypatch.setattr(authorities, "VALID_DAYS", 3 / 86_400)
    authority.certify("olga", parse_principal("operator/olga"))
    async with housed(tmp_path, authority) as house, house.door("olga") as channel:
        house.events.wait = True
        assert "expired at" in await ending(channel)
        refused = await refusal_of(EventServiceStub(channel).Subscribe(event_pb2.SubscribeRequest()).read())
        assert refused.reason == "CERTIFICATE_EXPIRED"
