"""Users' homes: from the directory, or from its last known good copy while the database is away."""

import asyncio
from dataclasses import dataclass
from uuid import UUID

import structlog

from cells.domain.moves.home import Home
from cells.domain.refusals import Refused
from router.directory.database import Database
from router.directory.snapshot import Copier
from router.directory.topology import LiveTopology
from router.directory.users import Directory, UserEntry, UserState
from router.refusals import DirectoryUnavailable

log = structlog.get_logger()

# If there is a copy, a database that has not answered by then counts as away.
FIND_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Homes:
    directory: Directory
    database: Database
    topology: LiveTopology
    copier: Copier | None

    async def find(self, user_id: UUID) -> UserEntry | None:
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

    async def yield_to(self, user_id: UUID, claimed: Home, *, by: str) -> bool:
        """Records a cell's report of a newer home. True: it counts, because that cell is the home before it."""
        entry = await self.find(user_id)
        if entry is None or claimed.epoch <= entry.epoch:
            return False
        if not Home(entry.cell.name, entry.epoch).vouches(by, claimed.epoch):
            log.warning("home_not_vouched", peer=by, cell=claimed.cell, epoch=claimed.epoch, known=entry.cell.name)
            return False
        try:
            await self.directory.adopt(user_id, claimed, None, by=by)
        except Refused as refused:
            log.warning("home_not_noted", cell=claimed.cell, epoch=claimed.epoch, problem=refused.message)
        else:
            log.warning("home_was_behind", cell=claimed.cell, epoch=claimed.epoch)
            if self.copier is not None:
                self.copier.wake()
        return True

    def _copied(self, user_id: UUID, copier: Copier) -> UserEntry:
        found = copier.snapshot.find(user_id)
        cell = self.topology.now.cell(found.cell) if found is not None else None
        if found is None or cell is None:
            raise DirectoryUnavailable
        return UserEntry(user_id=user_id, cell=cell, epoch=found.epoch, residency=found.residency, state=UserState.OPEN)
