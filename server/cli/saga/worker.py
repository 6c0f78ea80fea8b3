"""`cellbook saga-worker`: a Temporal server's workflows in a process of their own, whose legs the cell executes."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from grpc import aio

from cellbook.v1 import saga_pb2
from cellbook.v1.saga_pb2_grpc import SagaServiceStub
from server.cli.access import Access
from server.cli.client import ClientError
from server.sagas import connect_temporal
from server.shell.channels.client import OWN_CONNECTIONS, SERVICE_CONFIG, name_option

# Of an activity's 15 s: a call that the cell has not answered by then is repeated.
ADVANCE_S = 14.0
AGAIN_S = 1.0
PRINCIPAL = "operator/saga-worker"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """`cell`: addresses of the cell's processes, separated by commas; the worker finds the one that leads."""

    cell: str
    task_queue: str
    temporal_address: str
    temporal_namespace: str
    temporal_tls: bool = False
    temporal_tls_ca: Path | None = None
    temporal_tls_cert: Path | None = None
    temporal_tls_key: Path | None = None
    access: Access = field(default_factory=Access)


async def run_worker(plan: WorkerPlan) -> None:
    """Returns only by cancellation. Raises ClientError if the extra is not installed."""
    try:
        from temporalio import activity  # noqa: PLC0415 - an extra

        from cells.sagas.temporal import worker_of  # noqa: PLC0415
        from cells.sagas.temporal_workflow import ADVANCE, Step  # noqa: PLC0415
    except ImportError as error:
        raise ClientError(f"saga-worker needs an extra, pip install 'cellbook[temporal]' ({error})") from None
    channel = _channel(plan.cell, plan.access)
    stub = SagaServiceStub(channel)

    @activity.defn(name=ADVANCE)
    async def advance(saga_id: str) -> Step:
        request = saga_pb2.AdvanceSagaRequest(saga_id=saga_id)
        reply = await stub.AdvanceSaga(request, timeout=ADVANCE_S, metadata=plan.access.metadata(PRINCIPAL))
        return Step(ended=reply.ended, pause_s=reply.pause_ms / 1_000)

    try:
        while True:
            try:
                client = await connect_temporal(plan)
                log.info("working", address=plan.temporal_address)
                await worker_of(client, plan.task_queue, advance).run()
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
