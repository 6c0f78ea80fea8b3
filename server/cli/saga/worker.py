"""`cellbook saga-worker`: a Temporal server's workflows in a process of their own, whose legs the cell executes."""

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import structlog
import typer
from grpc import aio

from cellbook.v1 import saga_pb2
from cellbook.v1.saga_pb2_grpc import SagaServiceStub
from server.cli.access import Access, chosen_access
from server.cli.client import ClientError
from server.cli.command import run
from server.sagas import TemporalServer, connect_temporal
from server.shell.channels.options import OWN_CONNECTIONS, SERVICE_CONFIG, name_option
from server.shell.observability.logging import configure_logging

# Of an activity's 15 s: a call that the cell has not answered by then is repeated.
ADVANCE_S = 14.0
AGAIN_S = 1.0
PRINCIPAL = "operator/saga-worker"

log = structlog.get_logger()


def command(  # noqa: PLR0917 - as many options
    cell: Annotated[str, typer.Option("--cell", metavar="HOST:PORT[,..]", help="The cell's processes.")],
    task_queue: Annotated[
        str, typer.Option("--task-queue", envvar="CELLBOOK_TEMPORAL_TASK_QUEUE", help="cellbook-NAME of the cell.")
    ],
    address: Annotated[
        str, typer.Option("--temporal", metavar="HOST:PORT", envvar="CELLBOOK_TEMPORAL_ADDRESS")
    ] = "127.0.0.1:7233",
    namespace: Annotated[str, typer.Option("--namespace", envvar="CELLBOOK_TEMPORAL_NAMESPACE")] = "default",
    tls: Annotated[bool, typer.Option("--tls", envvar="CELLBOOK_TEMPORAL_TLS")] = False,
    tls_ca: Annotated[Path | None, typer.Option("--tls-ca", envvar="CELLBOOK_TEMPORAL_TLS_CA")] = None,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", envvar="CELLBOOK_TEMPORAL_TLS_CERT")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", envvar="CELLBOOK_TEMPORAL_TLS_KEY")] = None,
) -> None:
    """Run a Temporal server's workflows for a cell with temporal_worker=apart, until Ctrl-C."""
    configure_logging("info")
    server = TemporalServer(address, namespace, tls, tls_ca, tls_cert, tls_key)
    run(run_worker(cell, task_queue, server, chosen_access()), codes={signal.SIGTERM: 0})


async def run_worker(cell: str, task_queue: str, server: TemporalServer, access: Access) -> None:
    """`cell`: addresses of the cell's processes, separated by commas; the worker finds the one that leads.

    Returns only by cancellation. Raises ClientError if the extra is not installed.
    """
    try:
        from temporalio import activity  # noqa: PLC0415 - an extra

        from cells.sagas.temporal import worker_of  # noqa: PLC0415
        from cells.sagas.temporal_workflow import ADVANCE, Step  # noqa: PLC0415
    except ImportError as error:
        raise ClientError(f"saga-worker needs an extra, pip install 'cellbook[temporal]' ({error})") from None
    channel = _channel(cell, access)
    stub = SagaServiceStub(channel)

    @activity.defn(name=ADVANCE)
    async def advance(saga_id: str) -> Step:
        request = saga_pb2.AdvanceSagaRequest(saga_id=saga_id)
        reply = await stub.AdvanceSaga(request, timeout=ADVANCE_S, metadata=access.metadata(PRINCIPAL))
        return Step(ended=reply.ended, pause_s=reply.pause_ms / 1_000)

    try:
        while True:
            try:
                client = await connect_temporal(server)
                log.info("working", address=server.address)
                await worker_of(client, task_queue, advance).run()
            except Exception as error:  # noqa: BLE001 - whatever it is: it is gone back to
                log.warning("temporal_unavailable", problem=str(error))
            await asyncio.sleep(AGAIN_S)
    finally:
        await channel.close()


def _channel(cell: str, access: Access) -> aio.Channel:
    """Over all addresses at once, to the process that leads (docs/clients.md)."""
    target = f"ipv4:{cell}" if "," in cell else cell
    options: list[tuple[str, int | str]] = [
        OWN_CONNECTIONS,
        ("grpc.service_config", SERVICE_CONFIG),
        *name_option(cell.split(",")),
    ]
    return access.channel(target, options)
