"""How a cell is told to use Temporal: by settings, without the package where it is not wanted, and by TLS."""

import asyncio
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest

from lab.listener import Listener
from server.process.settings import ServerSettings
from server.sagas import build_engine, connect_temporal, temporal_of
from server.shell.settings.host import SettingsInvalid, load_settings
from tests.certificates import make_certificates
from tests.doubles.store import MemoryStore
from tests.temporal_server import address_of, temporal_server

CHUNK_BYTES = 65_536


def settings(*flags: str) -> ServerSettings:
    return load_settings(ServerSettings, ["--cell", "us-east", "--data", "unused", *flags], program="server")


def test_the_native_engine_needs_no_temporal() -> None:
    """A cell's whole program is imported without it."""
    code = "import server.__main__, sys; sys.exit('temporalio' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, instead of a traceback from an import."""
    monkeypatch.setitem(sys.modules, "cells.sagas.temporal", None)
    with pytest.raises(SettingsInvalid, match=r"pip install 'cellbook\[temporal\]'"):
        build_engine(settings("--saga-engine", "temporal"), MemoryStore("us-east"), Mock())


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--saga-engine", "camunda"], "saga_engine"),
        (["--temporal-address", "nowhere"], "temporal_address"),
        (["--temporal-tls", "--temporal-tls-cert", "cert.pem"], "temporal_tls_key"),
        (["--temporal-tls-ca", "ca.pem"], "temporal_tls: set it to true"),
    ],
)
def test_what_does_not_fit_is_refused(flags: list[str], problem: str) -> None:
    """Before anything is started."""
    with pytest.raises(SettingsInvalid, match=problem):
        settings(*flags)


@pytest.mark.temporal
async def test_certificates_of_both_sides_are_checked(tmp_path: Path) -> None:
    """The server's by the roots given, ours by the server; a stranger to either is not talked to."""
    make_certificates(tmp_path)
    ca = ["--temporal-tls", "--temporal-tls-ca", str(tmp_path / "ca.pem")]
    ours = ["--temporal-tls-cert", str(tmp_path / "ours.pem"), "--temporal-tls-key", str(tmp_path / "ours.key")]
    async with temporal_server() as plain, behind_tls(address_of(plain), tmp_path) as address:
        there = ["--temporal-address", address]
        client = await connect_temporal(temporal_of(settings(*there, *ca, *ours)))
        assert await client.service_client.check_health()
        for stranger in ([*ca], ["--temporal-tls", *ours], []):
            with pytest.raises(RuntimeError):
                await connect_temporal(temporal_of(settings(*there, *stranger)))


@asynccontextmanager
async def behind_tls(address: str, folder: Path) -> AsyncIterator[str]:
    """A proxy that talks TLS, and wants a certificate of whoever comes."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "theirs.pem", folder / "theirs.key")
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(host, int(port))
        try:
            await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer))
        finally:
            there_writer.transport.abort()

    async with Listener(serve, tls=context) as listener:
        yield listener.address


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
