"""Users' homes: from the directory, or from its last known good copy while the database is away."""

import asyncio
from dataclasses import dataclass
from uuid import UUID

import structlog

from cells.domain.moves.home import Home as CellHome
from cells.domain.refusals import Refused
from router.copier import Copier
from router.database import Database
from router.directory import Directory, Home, UserState
from router.move_store import MoveStore
from router.refusals import DirectoryUnavailable
from router.topology import LiveTopology

log = structlog.get_logger()

# If there is a copy, a database that has not answered by then counts as away.
FIND_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Homes:
    directory: Directory
    database: Database
    topology: LiveTopology
    copier: Copier | None
    # Records homes that cells report.
    told: MoveStore

    async def find(self, user_id: UUID) -> Home | None:
        """None: no user with that id is registered.

        Raises:
            DirectoryUnavailable, DirectoryBusy: unknown. A user who is not in the copy may still be registered.
        """
        if self.copier is None:
            return await self.directory.find(user_id)
        if not self.database.away:
            try:
                async with asyncio.timeout(FIND_S):
                    return await self.directory.find(user_id)
            except (DirectoryUnavailable, TimeoutError):
                # The follower notices when it is back.
                self.database.away = True
        return self._copied(user_id, self.copier)

    async def yield_to(self, home: Home, cell: str, epoch: int, *, by: str) -> bool:
        """Records a cell's report that the user of `home` lives elsewhere. It is true if the cell is that home."""
        if not CellHome(home.cell.name, home.epoch).vouches(by, epoch):
            log.warning("home_not_vouched", peer=by, cell=cell, epoch=epoch, known=home.cell.name)
            return False
        try:
            await self.told.adopt(home.user_id, cell, epoch, None, by=by)
        except Refused as refused:
            log.warning("home_not_noted", cell=cell, epoch=epoch, problem=refused.message)
        else:
            log.warning("home_was_behind", cell=cell, epoch=epoch)
            if self.copier is not None:
                self.copier.wake()
        return True

    def _copied(self, user_id: UUID, copier: Copier) -> Home:
        found = copier.snapshot.find(user_id)
        cell = self.topology.now.cell(found.cell) if found is not None else None
        if found is None or cell is None:
            raise DirectoryUnavailable
        return Home(user_id=user_id, cell=cell, epoch=found.epoch, residency=found.residency, state=UserState.OPEN)
