"""Users who move between three cells in memory: requests on their behalf, conditions to wait for, cells cut off."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import pytest

from cells.cell import Cell
from cells.domain.decision import LedgerPolicy
from cells.domain.moves.commands import BeginMove
from cells.domain.record import replace
from cells.domain.refusals import Refused
from cells.moves.history_exporter import HistoryExporter
from cells.requests import CommandRequest, Outcome
from tests.doubles.failpoints import Failpoints
from tests.local_cells import available, request, until, until_async
from tests.saga_world import AWAY, HERE, World, world
from tests.simulation.books import Books

TURNING_BACK = "SAGA_COMPENSATION_STARTED"


def asked(command: object, user: UUID, *, command_id: UUID | None = None) -> CommandRequest:
    """A client's request on behalf of the user, as servicers make it."""
    made = request(command, command_id=command_id)  # type: ignore[arg-type]
    return replace(made, user_id=user)


async def do(town: World, at: str, command: object, user: UUID, *, command_id: UUID | None = None) -> Outcome:
    return await town.cells[at].execute(asked(command, user, command_id=command_id))


async def move(town: World, user: UUID, to: str, *, at: str = HERE, command_id: UUID | None = None) -> Outcome:
    return await do(town, at, BeginMove(user_id=user, to_cell=to, region=None), user, command_id=command_id)


async def refused(cell: Cell, command: object, user: UUID, *, command_id: UUID | None = None) -> Refused:
    with pytest.raises(Refused) as error:
        await cell.execute(asked(command, user, command_id=command_id))
    return error.value


def history_exporter_of(town: World) -> HistoryExporter:
    """The exporter that carries users away from HERE."""
    history_exporter = town.all_steps[HERE].history_exporter
    assert history_exporter is not None
    return history_exporter


def allow_ms(town: World, move_valid_ms: int) -> None:
    """Users of HERE may be kept waiting for so long."""
    town.cells[HERE].writer._decider.policy = LedgerPolicy(move_valid_ms=move_valid_ms)


def logged(town: World, cell: str, event_type: str) -> bool:
    return any(row.event_type == event_type for row in town.stores[cell].log)


async def until_logged(town: World, cell: str, event_type: str) -> None:
    await until(lambda: logged(town, cell, event_type))


async def until_has(town: World, cell: str, user: UUID, amount_minor: int) -> None:
    await until_async(lambda: available(town.cells[cell], user), lambda found: found == amount_minor)


def cut_off_at(town: World, leg: str, cell: str = AWAY) -> None:
    """As soon as the leg is taken here the other cell is gone."""

    class Cutting(Failpoints):
        def hit(self, point: str, of: str, direction: str) -> None:
            if (point, of, direction) == ("after-commit", leg, "action"):
                town.cable.cut.add(cell)

    town.cells[HERE].failpoints = Cutting()


def check_pairs(here: World) -> None:
    """Not over all cells alone: each pair of cells has both sides of each movement between them."""
    sums: dict[tuple[str, str], int] = {}
    for cell, books in here.books.cells.items():
        for (account, _), amount in books.balances.items():
            if account.startswith("clearing/"):
                one, other = sorted((cell, account.removeprefix("clearing/")))
                sums[one, other] = sums.get((one, other), 0) + amount
    assert not any(sums.values()), sums


@asynccontextmanager
async def without_books(patch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """For ablations, which do what no books allow."""
    patch.setattr(Books, "written", lambda *_: None)
    async with world() as here:
        yield here
        # Nothing was entered into the books.
        for store in here.stores.values():
            store.projections.clear()
            store.house.clear()
            store.log.clear()
