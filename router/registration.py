"""Giving a user a home, in two steps that may both be taken again.

1. The home is committed to the directory. From here on it is the user's, whatever happens.
2. The home cell opens the account, under an id that follows from user and epoch, and the directory notes it.

A crash or a lost reply in between leaves the user OPENING; whoever registers the user again finishes it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from router.accounts import Accounts
from router.directory import Directory, Home, Placed, UserState
from router.move_store import MoveStore
from router.placement import place
from router.refusals import CellDraining, NoCellInRegion, UserRegisteredElsewhere
from router.topology import ANY_REGION, LiveTopology
from server.shell.refusals import WrongCell

OPEN_TIMEOUT_S = 5.0
# Of the caller's time: what is left is for the answer that the cell could not be reached.
_OPEN_SHARE = 0.75


def nobody_hears() -> None:
    """Where no copy is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    directory: Directory
    accounts: Accounts
    topology: LiveTopology
    # Takes note of what cells say of homes.
    told: MoveStore | None = None
    # Hears that a user has been given a home.
    homed: Callable[[], None] = nobody_hears

    async def register(self, user_id: UUID, residency: str, *, timeout_s: float | None) -> Home:
        """The user's home, its account open.

        Raises:
            NoCellInRegion: nothing was done.
            UserRegisteredElsewhere: nothing was done.
            CellDraining: nothing was done; in a moment the user is placed elsewhere.
            CellUnavailable, DirectoryUnavailable, DirectoryBusy: asked again, it finishes what was begun.
        """
        home = await self.directory.find(user_id) or await self._give_home(user_id, residency)
        # A bound user satisfies a caller to whom any region will do, and one who sends the first registration again: a
        # move may have changed the region since. Nobody else's wish.
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
        """A directory that was restored gives homes anew; the cell knows where the user has been since."""
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
            # Said a moment ago, and not heard here yet.
            raise CellDraining(user_id=str(user_id), cell=cell.name)
        self.homed()
        return home


def _share(timeout_s: float | None) -> float:
    return OPEN_TIMEOUT_S if timeout_s is None else min(OPEN_TIMEOUT_S, timeout_s * _OPEN_SHARE)


def _elsewhere(home: Home, region: str) -> UserRegisteredElsewhere:
    return UserRegisteredElsewhere(
        user_id=str(home.user_id), cell=home.cell.name, residency=home.residency, region=region
    )
