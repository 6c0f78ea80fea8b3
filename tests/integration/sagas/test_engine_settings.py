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

from cells.domain.sagas.saga import SagaState
from cells.store import postgres as stores
from cells.store.unusable import SagasOfAnotherEngine
from lab.listener import Listener
from server.process.settings import ServerSettings
from server.sagas import build_engine, connect_temporal, temporal_of
from server.shell.settings.host import SettingsInvalid, load_settings
from tests.certificates import make_certificates
from tests.doubles.store import MemoryStore
from tests.integration.database import ask, opened
from tests.integration.rows import batch_on, projection_row, saga
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


# --- which engine owns the sagas in flight ---


UNFINISHED = sorted(set(SagaState) - {SagaState.COMPLETED, SagaState.COMPENSATED})


async def engine_of(dsn: str) -> str:
    ((engine,),) = await ask(dsn, "SELECT saga_engine FROM head")
    return str(engine)


@pytest.mark.parametrize("state", UNFINISHED)
async def test_another_engine_does_not_start_while_sagas_are_in_flight(cell_dsn: str, state: SagaState) -> None:
    """It says whose they are and what to do. The same engine goes on."""
    async with opened(cell_dsn) as native:
        await native.append(batch_on(await native.claim(), projections=[projection_row(saga(state))]))
    with pytest.raises(SagasOfAnotherEngine, match="start this cell with saga_engine=native again"):
        async with opened(cell_dsn, saga_engine="temporal"):
            pass
    async with opened(cell_dsn) as native:
        await native.claim()


async def test_another_engine_starts_once_all_have_ended(cell_dsn: str) -> None:
    """From then on it is the first that is refused."""
    async with opened(cell_dsn) as native:
        ended = [saga(SagaState.COMPLETED), saga(SagaState.COMPENSATED)]
        await native.append(batch_on(await native.claim(), projections=[projection_row(each) for each in ended]))
    async with opened(cell_dsn, saga_engine="temporal") as temporal:
        assert await engine_of(cell_dsn) == "native"
        head = await temporal.claim()
        assert await engine_of(cell_dsn) == "temporal"
        await temporal.append(batch_on(head, projections=[projection_row(saga())]))
    with pytest.raises(SagasOfAnotherEngine, match="saga_engine=temporal again"):
        async with opened(cell_dsn):
            pass


async def test_a_standby_with_another_engine_deposes_nobody(cell_dsn: str) -> None:
    """The sagas began after it had started: its claim changes nothing, and the leader goes on."""
    async with opened(cell_dsn) as native, opened(cell_dsn, saga_engine="temporal") as temporal:
        head = await native.claim()
        await native.append(batch_on(head, projections=[projection_row(saga())]))
        head = await native.head()
        with pytest.raises(SagasOfAnotherEngine):
            await temporal.claim(expected_epoch=head.epoch)
        assert await native.head() == head
        await native.append(batch_on(head))


async def test_unasked_it_would_take_them_over(cell_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablation: without the question the sagas of the one are the other's."""
    monkeypatch.setitem(stores.SQL, "sagas_of_another_engine", "SELECT saga_engine FROM head WHERE $1 = ''")
    async with opened(cell_dsn) as native, opened(cell_dsn, saga_engine="temporal") as temporal:
        await native.append(batch_on(await native.claim(), projections=[projection_row(saga())]))
        await temporal.claim()
        assert await engine_of(cell_dsn) == "temporal"
