"""The router's metrics of the directory and the cells, besides those of its calls."""

from collections.abc import Iterable
from functools import partial

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from router.directory.database import Database
from router.directory.topology import CellHealth, CellState, LiveTopology
from server.shell.observability.metrics import LoopCollector, gauge, process_registry


def router_registry(topology: LiveTopology, database: Database) -> CollectorRegistry:
    """All of a router process's metrics except those of its calls."""
    registry = process_registry()
    registry.register(LoopCollector(partial(_read, topology, database)))
    return registry


def _read(topology: LiveTopology, database: Database) -> Iterable[Metric]:
    now = topology.now
    away = "1 while the directory's database is away: known users are resolved, registration is not possible."
    yield gauge("cellbook_directory_away", away, int(database.away or now.read_only))
    version = "Rises with every change of the cells by settings or operators."
    yield gauge("cellbook_topology_version", version, now.version)
    # Not `cell`: that label names the scraped process's cell.
    serving = {cell.name: int(cell.health is not CellHealth.NOT_SERVING) for cell in now.cells}
    what = "1 if a process of the cell accepts commands, as seen from here."
    yield gauge("cellbook_cell_serving", what, serving, "name")
    taken_out = {cell.name: int(cell.state is not CellState.ACTIVE) for cell in now.cells}
    what = "1 if an operator has drained the cell or marked it down."
    yield gauge("cellbook_cell_taken_out", what, taken_out, "name")
