"""Whether a process is well, as a supervisor's command asks it."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from server.cli.keys.authority import Authority, make_keys
from server.process.policies import POLICIES
from server.shell.calls.guard import CallGuard
from server.shell.hosting.health_check import exit_by_health
from server.shell.hosting.host import GrpcHost
from server.shell.hosting.security import build_security
from server.shell.settings.host import HostSettings
from tests.integration.shell.shell_host import settings_in


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
