"""Selects the engine that drives the cell's sagas. `temporalio` is imported only if it is used."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cells.sagas.engine import SagaEngine
from cells.sagas.native import NativeEngine
from cells.sagas.steps import Steps
from cells.store.ports import Store
from server.process.settings import ServerSettings
from server.shell.settings.host import SettingsInvalid

if TYPE_CHECKING:
    from temporalio.client import Client
    from temporalio.service import TLSConfig


def build_engine(settings: ServerSettings, store: Store, steps: Steps) -> SagaEngine:
    """Raises SettingsInvalid if the engine's package is not installed."""
    if settings.saga_engine == "native":
        return NativeEngine(store=store, steps=steps)
    try:
        from cells.sagas.temporal import TemporalEngine  # noqa: PLC0415 - an extra
    except ImportError as error:
        problem = f"saga_engine: temporal needs an extra, pip install 'cellbook[temporal]' ({error})"
        raise SettingsInvalid(problem) from None

    task_queue = settings.temporal_task_queue or f"cellbook-{settings.cell}"
    works = settings.temporal_worker == "inside"
    return TemporalEngine(
        store=store,
        steps=steps,
        connect=partial(connect_temporal, temporal_of(settings)),
        task_queue=task_queue,
        works=works,
    )


class TemporalServer(NamedTuple):
    """How to reach it; each field is the setting temporal_NAME."""

    address: str
    namespace: str
    tls: bool
    tls_ca: Path | None
    tls_cert: Path | None
    tls_key: Path | None


def temporal_of(settings: ServerSettings) -> TemporalServer:
    return TemporalServer(*(getattr(settings, f"temporal_{name}") for name in TemporalServer._fields))


async def connect_temporal(server: TemporalServer) -> "Client":
    from temporalio.client import Client  # noqa: PLC0415 - an extra

    return await Client.connect(server.address, namespace=server.namespace, tls=_tls(server) or False)


def _tls(server: TemporalServer) -> "TLSConfig | None":
    """Read at each connect, because certificates are renewed."""
    from temporalio.service import TLSConfig  # noqa: PLC0415 - an extra

    if not server.tls:
        return None
    return TLSConfig(
        server_root_ca_cert=_bytes(server.tls_ca),
        client_cert=_bytes(server.tls_cert),
        client_private_key=_bytes(server.tls_key),
    )


def _bytes(file: Path | None) -> bytes | None:
    return file.read_bytes() if file is not None else None
