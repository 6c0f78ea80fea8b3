"""Polls the health services of the cells' processes."""

import asyncio
from collections import defaultdict

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cells.background import BackgroundTask, note_failure
from router.directory.topology import Cell, CellHealth, LiveTopology
from server.shell.channels.channel_pool import ChannelPool

log = structlog.get_logger()

PROBE_S = 1.0
PROBE_TIMEOUT_S = 1.0
# Failed checks in a row before a cell counts as silent: one lost packet, or a takeover, is no outage.
SILENT_LOOKS_MAX = 4

_SERVING = health_pb2.HealthCheckResponse.SERVING


class Probes:
    def __init__(self, topology: LiveTopology, channels: ChannelPool) -> None:
        self._topology = topology
        self._channels = channels
        # Cell -> checks in a row that found no serving process.
        self._silent: defaultdict[str, int] = defaultdict(int)
        self.background = BackgroundTask(name="probes", work=self.poll, every_s=PROBE_S)

    async def poll(self) -> None:
        """Asks every process of every cell once."""
        cells = self._topology.now.cells
        found = await asyncio.gather(*(self._cell(cell) for cell in cells))
        before = {cell.name: cell.health for cell in cells}
        health = {cell.name: self._judged(cell, serving=serving) for cell, serving in zip(cells, found, strict=True)}
        for name, now in health.items():
            if before[name] is not now:
                log.info("cell_health", cell=name, state=now.value)
        self._topology.show_health(health)
        self._channels.forget({endpoint for cell in cells for endpoint in cell.endpoints})

    async def _cell(self, cell: Cell) -> bool | None:
        """Whether one of its processes serves; None: one answers, but has no health service."""
        answers = await asyncio.gather(*(self._endpoint(endpoint) for endpoint in cell.endpoints))
        return True if True in answers else None if None in answers else False

    async def _endpoint(self, endpoint: str) -> bool | None:
        try:
            stub = health_pb2_grpc.HealthStub(self._channels.channel(endpoint, (endpoint,)))
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=PROBE_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            return None if error.code() is grpc.StatusCode.UNIMPLEMENTED else False
        except Exception:  # noqa: BLE001 - the others' health is known all the same
            note_failure(self.background.name, address=endpoint)
            return False
        return bool(answer.status == _SERVING)

    def _judged(self, cell: Cell, *, serving: bool | None) -> CellHealth:
        if serving is None:
            return CellHealth.UNKNOWN
        self._silent[cell.name] = 0 if serving else self._silent[cell.name] + 1
        if serving:
            return CellHealth.SERVING
        return CellHealth.NOT_SERVING if self._silent[cell.name] >= SILENT_LOOKS_MAX else cell.health
