"""Listening, readiness and an orderly end."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2

from cellbook.v1 import event_pb2, ledger_pb2, ledger_pb2_grpc
from server.cli.keys.authority import Authority, make_keys
from server.process.policies import POLICIES
from server.shell.calls.guard import CallGuard
from server.shell.channels.client import open_channel
from server.shell.hosting.health_check import exit_by_health
from server.shell.hosting.host import GrpcHost, ListenFailed, ServerEnded
from server.shell.hosting.security import build_security
from server.shell.settings.host import HostSettings
from tests.integration.services_rig import status_of
from tests.integration.shell.shell_host import (
    HEALTH,
    LEDGER,
    SERVICE,
    USER,
    Shell,
    running,
    settings_in,
)


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
            shell.host.set_serving(serving=serving)
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
    assert await status_of(subscription.read()) is grpc.StatusCode.UNAVAILABLE
    async with open_channel(str(shell.host.address)) as late:
        asked = ledger_pb2.GetBalanceRequest(user_id=USER)
        call = ledger_pb2_grpc.LedgerServiceStub(late).GetBalance(asked, metadata=SERVICE, timeout=5)
        assert await status_of(call) is grpc.StatusCode.UNAVAILABLE
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


async def test_a_host_whose_server_has_ended_ends(tmp_path: Path) -> None:
    """A process that nobody can call any more does not go on leading: it ends, and says so."""
    shell = Shell(settings_in(tmp_path), None, 30.0)
    await shell.start()
    served = asyncio.ensure_future(shell.host.run_until_signalled())
    await shell.balance()
    await shell.host.server.stop(None)
    with pytest.raises(ServerEnded, match=f"the server at {shell.host.address} has ended unasked"):
        await asyncio.wait_for(served, 5)
    assert shell.host.ending
    await shell.channel.close()


EARLY = """
import asyncio
from server.shell.hosting.process import run_process
async def main():
    try:
        print("started", flush=True)
        await asyncio.sleep(600)
    finally:
        await asyncio.sleep(0)
        print("closed", flush=True)
run_process(main(), program="early", drain_grace_ms=0)
"""


async def test_sigterm_before_the_host_runs_closes_what_was_started() -> None:
    """A process that is asked to end while it starts goes through its cleanup, and ends well."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", EARLY, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"started\n"
    process.terminate()
    assert await process.stdout.read() == b"closed\n"
    assert await process.wait() == 0


# --- whether a process is well ---


@asynccontextmanager
async def hosted(settings: HostSettings) -> AsyncIterator[tuple[GrpcHost, HostSettings]]:
    """A standby that is not ready yet, and the settings by which it is asked."""
    host = GrpcHost(
        settings, name="us-east", guard=CallGuard(POLICIES), certificates=build_security(settings).certificates
    )
    await host.start([], serving=False, ready=False)
    try:
        yield host, settings.model_copy(update={"listen": str(host.address)})
    finally:
        await host.stop()


async def word(settings: HostSettings) -> str:
    """What is said, and the exit code is 1; empty: it is well, and the exit code is 0."""
    try:
        await asyncio.to_thread(exit_by_health, settings)
    except SystemExit as ending:
        return str(ending.code)
    return ""


async def test_a_process_is_well_once_it_is_ready(tmp_path: Path) -> None:
    """Leading or not; before and after it is not."""
    async with hosted(settings_in(tmp_path)) as (host, asked):
        assert await word(asked) == f"{asked.listen}: NOT_SERVING"
        await host.tell_ready()
        assert await word(asked) == ""
    assert "UNAVAILABLE" in await word(asked)


async def test_who_listens_everywhere_is_asked_here(tmp_path: Path) -> None:
    """Nobody can call 0.0.0.0."""
    async with hosted(settings_in(tmp_path, listen="0.0.0.0:0", insecure_listen=True)) as (host, asked):
        await host.tell_ready()
        assert await word(asked) == ""


async def test_it_proves_who_asks(tmp_path: Path) -> None:
    """With the process's own certificate, for whatever host that is; without one nobody gets in."""
    authority = Authority(tmp_path)
    make_keys(authority, ["us-east"], ["us-east.example"])
    files = authority.tls("us-east")
    secure = settings_in(tmp_path, tls_cert=files.cert, tls_key=files.key, tls_ca=files.ca)
    async with hosted(secure) as (host, asked):
        await host.tell_ready()
        assert await word(asked) == ""
        plain = asked.model_copy(update={"tls_cert": None})
        assert "UNAVAILABLE" in await word(plain)
        missing = asked.model_copy(update={"tls_key": tmp_path / "none"})
        assert str(tmp_path / "none") in await word(missing)


@pytest.mark.parametrize("module", ["server.health", "router.health"])
async def test_the_command_takes_the_settings_of_its_process(tmp_path: Path, module: str) -> None:
    """Its exit code is what a supervisor goes by."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, "--data", str(tmp_path), "--listen", "127.0.0.1:1"),
        *(("--cell", "us-east") if module == "server.health" else ()),
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode == 1
    assert said.startswith(b"127.0.0.1:1: UNAVAILABLE")
