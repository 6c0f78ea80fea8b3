"""The cells there are, as one immutable picture."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

WEIGHT_DEFAULT = 100
# What requests and residencies say where any region will do; no cell's own.
ANY_REGION = ""


class CellState(StrEnum):
    ACTIVE = "ACTIVE"
    # No longer named by the router's settings: its users stay at home there, nobody new is placed.
    WITHDRAWN = "WITHDRAWN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    name: str
    region: str
    # "host:port" of each process that serves the cell.
    endpoints: tuple[str, ...]
    # Share of new users within the region.
    weight: int = WEIGHT_DEFAULT
    state: CellState = CellState.ACTIVE


class Topology:
    """All cells of the directory, by name."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        self.cells = tuple(sorted(cells, key=lambda cell: cell.name))

    def open_to_new_users(self, region: str) -> list[Cell]:
        """The region's active cells. An empty list is an answer: data bound to a region goes to no other."""
        active = (cell for cell in self.cells if cell.state is CellState.ACTIVE)
        return [cell for cell in active if region in (ANY_REGION, cell.region)]
