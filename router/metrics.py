"""The router's metrics of the directory and the cells, besides those of its calls."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from router.directory.database import Database
from router.directory.topology import CellHealth, CellState, LiveTopology
from server.shell.observability.metrics import LoopCollector, process_registry


def router_registry(topology: LiveTopology, database: Database) -> CollectorRegistry:
    """All of a router process's metrics except those of its calls."""
    registry = process_registry()
    registry.register(LoopCollector(RouterMetrics(topology, database).read))
    return registry


class RouterMetrics:
    def __init__(self, topology: LiveTopology, database: Database) -> None:
        self._topology = topology
        self._database = database

    def read(self) -> Iterable[Metric]:
        now = self._topology.now
        away = "1 while the directory's database is away: known users are resolved, registration is not possible."
        yield GaugeMetricFamily("cellbook_directory_away", away, value=int(self._database.away or now.read_only))
        version = "Rises with every change of the cells by settings or operators."
        yield GaugeMetricFamily("cellbook_topology_version", version, value=now.version)
        # Not `cell`: that label names the scraped process's cell.
        serving = GaugeMetricFamily(
            "cellbook_cell_serving", "1 if a process of the cell accepts commands, as seen from here.", labels=["name"]
        )
        drained = GaugeMetricFamily(
            "cellbook_cell_taken_out", "1 if an operator has drained the cell or marked it down.", labels=["name"]
        )
        for cell in now.cells:
            serving.add_metric([cell.name], int(cell.health is not CellHealth.NOT_SERVING))
            drained.add_metric([cell.name], int(cell.state is not CellState.ACTIVE))
        yield serving
        yield drained
