"""Selects the engine that drives the cell's sagas. `temporalio` is imported only if it is used."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

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

    async def connect() -> "Client":
        return await connect_temporal(settings)

    task_queue = settings.temporal_task_queue or f"cellbook-{settings.cell}"
    works = settings.temporal_worker == "inside"
    return TemporalEngine(store=store, steps=steps, connect=connect, task_queue=task_queue, works=works)


class TemporalSettings(Protocol):
    """How to reach a Temporal server."""

    @property
    def temporal_address(self) -> str: ...
    @property
    def temporal_namespace(self) -> str: ...
    @property
    def temporal_tls(self) -> bool: ...
    @property
    def temporal_tls_ca(self) -> Path | None: ...
    @property
    def temporal_tls_cert(self) -> Path | None: ...
    @property
    def temporal_tls_key(self) -> Path | None: ...


async def connect_temporal(settings: TemporalSettings) -> "Client":
    from temporalio.client import Client  # noqa: PLC0415 - an extra

    return await Client.connect(
        settings.temporal_address, namespace=settings.temporal_namespace, tls=_tls(settings) or False
    )


def _tls(settings: TemporalSettings) -> "TLSConfig | None":
    """Read at each connect, because certificates are renewed."""
    from temporalio.service import TLSConfig  # noqa: PLC0415 - an extra

    if not settings.temporal_tls:
        return None
    return TLSConfig(
        server_root_ca_cert=_bytes(settings.temporal_tls_ca),
        client_cert=_bytes(settings.temporal_tls_cert),
        client_private_key=_bytes(settings.temporal_tls_key),
    )


def _bytes(file: Path | None) -> bytes | None:
    return file.read_bytes() if file is not None else None
