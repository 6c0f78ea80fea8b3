"""The cells as one immutable value, and the current value."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

WEIGHT_DEFAULT = 100
# In requests and residencies it means any region; no cell has it.
ANY_REGION = ""


class CellState(StrEnum):
    """Set by an operator."""

    ACTIVE = "ACTIVE"
    # Its users stay there; no new users are placed.
    DRAINING = "DRAINING"
    # It is not called.
    DOWN = "DOWN"


class CellHealth(StrEnum):
    """Determined by probes."""

    UNKNOWN = "UNKNOWN"
    SERVING = "SERVING"
    NOT_SERVING = "NOT_SERVING"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    name: str
    region: str
    # "host:port" of each process that serves the cell.
    endpoints: tuple[str, ...]
    # Share of new users within the region.
    weight: int = WEIGHT_DEFAULT
    state: CellState = CellState.ACTIVE
    health: CellHealth = CellHealth.UNKNOWN


@dataclass(frozen=True, slots=True)
class Topology:
    """All cells of the directory, by name."""

    cells: Sequence[Cell]
    # Rises with every change by settings or operators.
    version: int = field(default=0, kw_only=True)
    # The directory's database is away: these are the last known good cells, and users cannot be registered.
    read_only: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", tuple(sorted(self.cells, key=lambda cell: cell.name)))

    def cell(self, name: str) -> Cell | None:
        return next((cell for cell in self.cells if cell.name == name), None)

    def open_to_new_users(self, region: str) -> list[Cell]:
        """The region's active cells; if any of them answer, only those.

        An empty list is a valid answer: data bound to a region goes to no other. Health only ranks cells. If silent
        cells were excluded, a router that is cut off from its cells would refuse users for a fault that only it sees.
        """
        active = (cell for cell in self.cells if cell.state is CellState.ACTIVE)
        within = [cell for cell in active if region in (ANY_REGION, cell.region)]
        return [cell for cell in within if cell.health is not CellHealth.NOT_SERVING] or within


class LiveTopology:
    """The current topology, for callers that read it or wait for it to change."""

    def __init__(self, topology: Topology) -> None:
        self.now = topology
        self._health: Mapping[str, CellHealth] = {}
        self._changed = asyncio.Event()

    def show(self, topology: Topology) -> None:
        """Replaces the topology, whose health is unknown; the last probe results stay."""
        unknown = CellHealth.UNKNOWN
        cells = [replace(cell, health=self._health.get(cell.name, unknown)) for cell in topology.cells]
        topology = replace(topology, cells=cells)
        if topology != self.now:
            self.now = topology
            self._changed.set()
            self._changed = asyncio.Event()

    def show_health(self, health: Mapping[str, CellHealth]) -> None:
        """Cell -> the current probe result."""
        self._health = health
        self.show(self.now)

    def show_read_only(self) -> None:
        self.show(replace(self.now, read_only=True))

    async def follow(self) -> AsyncIterator[Topology]:
        """The current topology, and each later one; of several in quick succession only the last."""
        shown = None
        while True:
            changed = self._changed
            if self.now != shown:
                shown = self.now
                yield shown
            else:
                await changed.wait()
