"""Keeps this router's view of the cells in step with the directory, whose database may come and go."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import structlog

from cells.background import Background, in_background
from cells.domain.refusals import Refused
from router.directory.cells import CellEntry, CellStore
from router.directory.database import AWAY, Database
from router.directory.topology import LiveTopology, Topology
from router.refusals import DirectoryUnavailable
from server.shell.postgres.database import MigrationFailed

log = structlog.get_logger()

# How late this router may learn of a change made through another one.
POLL_S = 1.0
# A database that does not answer for this long is away.
LOOK_MAX_S = 5.0


@dataclass(slots=True, kw_only=True)
class Follower(Background):
    database: Database
    cells: CellStore
    topology: LiveTopology
    # The cells in the settings, adopted once when the database is first reachable.
    settings_cells: Sequence[CellEntry]
    _adopted: bool = False
    # One at a time, so that the later one shows the newer state.
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)

    def show_copy(self, topology: Topology) -> None:
        """Shows the last known good cells, with the endpoints that the settings of this start have."""
        named = {entry.name: entry.endpoints for entry in self.settings_cells}
        cells = [replace(cell, endpoints=named.get(cell.name, cell.endpoints)) for cell in topology.cells]
        self.topology.show(replace(topology, cells=cells, read_only=True))

    @in_background("directory", every_s=POLL_S)
    async def look_again(self) -> None:
        """As `look`, but logs failures instead of raising them."""
        try:
            await self.poll()
        except (*AWAY, DirectoryUnavailable) as problem:
            log.debug("directory_away", problem=str(problem))
            self.topology.show_read_only()
        except (Refused, MigrationFailed) as problem:
            # The database is back and contradicts the settings: waiting does not fix that.
            log.error("directory_unusable", problem=str(problem))  # noqa: TRY400 - said in a line
            self.topology.show_read_only()

    async def poll(self) -> None:
        """Raises the reason why the directory cannot be read."""
        async with self._looking:
            await self._look()

    async def _look(self) -> None:
        if self.database.away:
            await self.database.open()
        async with asyncio.timeout(LOOK_MAX_S):
            if not self._adopted:
                await self.cells.adopt(self.settings_cells)
                self._adopted = True
            _, topology = await self.cells.stored()
        self.topology.show(topology)
