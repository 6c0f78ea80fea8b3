"""Which cell a command goes to, and where a user lives who has no account here."""

import asyncio
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from cells.domain.commands import Command, PlaceBid, Transfer
from cells.domain.moves.home import Home
from cells.domain.record import replace
from cells.domain.refusals import CellUnknown, Refused, Unavailable, UserNotFound, WrongCell
from cells.home_cache import HomeCache
from cells.requests import CommandRequest, Outcome
from cells.sagas.steps import user_in_refusal
from cells.store.ports import Directory

# Then the directory is asked again, because users move. Old answers are used while it is away: a cell that a user has
# left says where the user has moved to.
FRESH_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    cell: str
    directory: Directory
    homes: HomeCache[UUID]

    async def home_of(self, user_id: UUID) -> Home | None:
        """None: no such user is registered. Raises Unavailable."""
        return await self.homes.home(user_id, fresh_s=FRESH_S)

    def cell_of(self, command: Command) -> str:
        """The cell that a bid goes to; every other command is for this cell."""
        return command.auction_cell if isinstance(command, PlaceBid) else self.cell

    async def require_cell(self, cell: str) -> None:
        """A bid to a cell that does not exist would hold its money until its outcome could never be known.

        Raises CellUnknown, Unavailable.
        """
        if cell != self.cell and not await self.directory.knows_cell(cell):
            raise CellUnknown(cell=cell)

    async def unknown_of(self, cells: Iterable[str], wait_s: float) -> dict[str, Refused]:
        """Those of the cells that cannot be called, each with the reason; all are looked up at once."""
        lookups = {cell: self.require_cell(cell) for cell in {*cells} - {self.cell}}
        return {cell: refused for cell, refused in (await _lookups(lookups, wait_s)).items() if refused is not None}

    async def placed(self, error: UserNotFound) -> Refused:
        """A user without an account here may be at home elsewhere."""
        home = await self.home_of(UUID(str(error.facts["user_id"])))
        if home is None or home.cell == self.cell:
            return error
        resource = f"user {error.facts['user_id']}"
        return WrongCell(resource=resource, cell=home.cell, here=self.cell, epoch=home.epoch)

    async def placed_all(self, answers: Sequence[Outcome | Refused], wait_s: float) -> list[Outcome | Refused]:
        """The answers, with the home in refusals for users without an account here."""
        strangers = {str(each.facts["user_id"]): each for each in answers if isinstance(each, UserNotFound)}
        found = await _lookups({user_id: self.placed(error) for user_id, error in strangers.items()}, wait_s)
        return [
            found[str(each.facts["user_id"])] or each if isinstance(each, UserNotFound) else each for each in answers
        ]

    async def redirected(self, request: CommandRequest, error: UserNotFound | WrongCell) -> CommandRequest:
        """The request with its money sent to the payee's home, if the payee is the user who lives elsewhere.

        Raises:
            Refused: the refusal to answer with: UserNotFound, WrongCell, or Unavailable.
        """
        command = request.command
        refused = await self.placed(error) if isinstance(error, UserNotFound) else error
        stranger = user_in_refusal(refused) if isinstance(refused, WrongCell) else None
        if not (isinstance(command, Transfer) and command.to_user_id == stranger and isinstance(refused, WrongCell)):
            raise refused
        return replace(request, command=replace(command, to_cell=str(refused.facts["cell"])))


async def _lookups(
    lookups: Mapping[str, Coroutine[Any, Any, Refused | None]], wait_s: float
) -> dict[str, Refused | None]:
    """The result of each lookup, raised or not; Unavailable if there was none in time."""
    if not lookups:
        return {}
    tasks = {key: asyncio.ensure_future(lookup) for key, lookup in lookups.items()}
    try:
        await asyncio.wait(tasks.values(), timeout=wait_s)
        return {key: _found(task) for key, task in tasks.items()}
    finally:
        for task in tasks.values():
            task.cancel()


def _found(task: asyncio.Future[Refused | None]) -> Refused | None:
    if not task.done():
        return Unavailable(problem="the router has not answered in time")
    try:
        return task.result()
    except Refused as refused:
        return refused
