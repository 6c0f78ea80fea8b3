"""Registers a user in two steps, each of which may be repeated.

1. The home is committed to the directory. From then on it is the user's, whatever happens.
2. The home cell opens the account, under an id derived from user and epoch, and the directory records it.

A crash or a lost reply in between leaves the user OPENING; the next registration of the user finishes it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from cells.domain.refusals import WrongCell
from router.accounts import Accounts
from router.directory import Directory, Home, Placed, UserState
from router.move_store import MoveStore
from router.placement import place
from router.refusals import CellDraining, NoCellInRegion, UserRegisteredElsewhere
from router.topology import ANY_REGION, LiveTopology

OPEN_TIMEOUT_S = 5.0
# Of the caller's time; the rest is for answering that the cell could not be reached.
_OPEN_SHARE = 0.75


def nobody_hears() -> None:
    """No copy is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    directory: Directory
    accounts: Accounts
    topology: LiveTopology
    # Records homes that cells report.
    told: MoveStore | None = None
    # Called when a user has been given a home.
    homed: Callable[[], None] = nobody_hears

    async def register(self, user_id: UUID, residency: str, *, timeout_s: float | None) -> Home:
        """The user's home, with its account open.

        Raises:
            NoCellInRegion: nothing was done.
            UserRegisteredElsewhere: nothing was done.
            CellDraining: nothing was done; a moment later the user is placed elsewhere.
            CellUnavailable, DirectoryUnavailable, DirectoryBusy: repeat the call to finish the registration.
        """
        home = await self.directory.find(user_id) or await self._give_home(user_id, residency)
        # A bound user is accepted for a request with any region, and for a repeat of the first registration, because a
        # move may have changed the region since. Any other region is refused.
        if residency not in (ANY_REGION, home.residency, home.registered_residency):
            raise _elsewhere(home, residency)
        if home.state is UserState.OPENING:
            try:
                await self.accounts.open(home, timeout_s=_share(timeout_s))
            except WrongCell as error:
                return await self._moved_home(home, error)
            await self.directory.mark_open(home)
        return home

    async def _moved_home(self, home: Home, error: WrongCell) -> Home:
        """A restored directory may assign a home anew; the cell knows where the user has moved since."""
        if self.told is None:
            raise error
        cell, epoch = str(error.facts["cell"]), int(error.facts.get("epoch", 0))
        await self.told.adopt(home.user_id, cell, epoch, None, by=home.cell.name)
        self.homed()
        return await self.directory.find(home.user_id) or home

    async def _give_home(self, user_id: UUID, residency: str) -> Home:
        cell = place(user_id, self.topology.now.open_to_new_users(residency))
        if cell is None:
            raise NoCellInRegion(region=residency)
        home = await self.directory.add(Placed(user_id=user_id, cell=cell, residency=residency))
        if home is None:
            # The change was made a moment ago, and has not reached this router.
            raise CellDraining(user_id=str(user_id), cell=cell.name)
        self.homed()
        return home


def _share(timeout_s: float | None) -> float:
    return OPEN_TIMEOUT_S if timeout_s is None else min(OPEN_TIMEOUT_S, timeout_s * _OPEN_SHARE)


def _elsewhere(home: Home, region: str) -> UserRegisteredElsewhere:
    return UserRegisteredElsewhere(
        user_id=str(home.user_id), cell=home.cell.name, residency=home.residency, region=region
    )
