"""Keeps this router's picture of the cells up with the directory, whose database may go and come back."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import structlog

from router.database import AWAY, Database
from router.operations import CellEntry, Operations
from router.refusals import DirectoryUnavailable
from router.topology import LiveTopology, Topology
from server.shell.background import BackgroundTask
from server.shell.database import MigrationFailed
from server.shell.refusals import Refused

log = structlog.get_logger()

# How late this router may hear what was said to another one.
LOOK_S = 1.0
# A database that says nothing for so long is away.
LOOK_MAX_S = 5.0


@dataclass(slots=True, kw_only=True)
class Follower:
    database: Database
    operations: Operations
    topology: LiveTopology
    # What the settings say: taken over once, when the database is first there.
    settings_cells: Sequence[CellEntry]
    _adopted: bool = False
    # One look at a time: the later one shows the newer picture.
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    background: BackgroundTask = field(init=False)

    def __post_init__(self) -> None:
        self.background = BackgroundTask(name="directory", work=self.look_again, every_s=LOOK_S)

    def show_copy(self, topology: Topology) -> None:
        """The last known good cells, with what the settings of this start say of where they are."""
        named = {entry.name: entry.endpoints for entry in self.settings_cells}
        cells = [replace(cell, endpoints=named.get(cell.name, cell.endpoints)) for cell in topology.cells]
        self.topology.show(Topology(cells, version=topology.version, read_only=True))

    async def look_again(self) -> None:
        """As `look`, whatever becomes of it."""
        try:
            await self.look()
        except (*AWAY, DirectoryUnavailable) as problem:
            log.debug("directory_away", problem=str(problem))
            self.topology.show_read_only()
        except (Refused, MigrationFailed) as problem:
            # The database is back, and is not what the settings say: nothing that waiting would mend.
            log.error("directory_unusable", problem=str(problem))  # noqa: TRY400 - said in a line
            self.topology.show_read_only()

    async def look(self) -> None:
        """Raises what keeps the directory from being looked at."""
        async with self._looking:
            await self._look()

    async def _look(self) -> None:
        if self.database.away:
            await self.database.open()
        async with asyncio.timeout(LOOK_MAX_S):
            if not self._adopted:
                await self.operations.adopt(self.settings_cells)
                self._adopted = True
            stored = await self.operations.stored()
        self.topology.show(stored.topology)
