"""Each safeguard of the copy that a move makes, switched off, is missed by the test that holds it."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from cells.audit.reconcile.findings import Check, Finding, Order
from cells.domain.moves.commands import ArriveUser, BeginMove
from cells.domain.sagas.leg import LegMark
from cells.domain.values import Direction
from cells.encoding.outcome_seal import OutcomeSeal
from cells.moves import history_exporter
from cells.moves.history_exporter import Copying, HistoryExporter
from cells.store import moves as store_moves
from cells.store import postgres as store_module
from cells.store.ports import LegCall, OutcomeRow
from cells.store.sessions import Connection
from tests.doubles.store import MemoryStore
from tests.integration.moves import test_moves_copying as copying
from tests.integration.moves.moves_rig import asked
from tests.integration.played import HERE, THERE, Played, serving
from tests.local_cells import DirectPeers
from tests.saga_world import World, world


@pytest.fixture
async def town() -> AsyncIterator[World]:
    """Its books are not looked at: safeguards are missing."""
    async with world() as here:
        yield here


async def test_without_the_stage_what_is_called_off_stays(town: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that was brought is taken for live."""

    async def nothing(*_: object, **__: object) -> list[object]:
        return []

    monkeypatch.setattr(MemoryStore, "stale", nothing)
    with pytest.raises(AssertionError):
        await copying.test_what_is_called_off_is_removed(town, monkeypatch)


async def test_without_the_resume_all_is_copied_again(town: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asks the new home for what it holds."""

    async def from_the_start(_self: HistoryExporter, under_way: Copying) -> dict[str, int]:
        if under_way.held is None:
            under_way.held, under_way.version = {}, 0
        return under_way.held

    monkeypatch.setattr(HistoryExporter, "_held", from_the_start)
    with pytest.raises(AssertionError):
        await copying.test_copying_goes_on_where_it_stopped(town, monkeypatch)


def test_without_the_bound_by_bytes_calls_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are bounded by count alone."""
    monkeypatch.setattr(history_exporter, "PART_BYTES", 2**40)
    with pytest.raises(AssertionError):
        copying.test_parts_are_bounded_by_bytes()


async def found_during_a_move(played: Played, monkeypatch: pytest.MonkeyPatch) -> Sequence[Finding]:
    """In the cell that a user is about to arrive at, with all that was copied ahead; and in both, afterwards."""
    copied, leave = asyncio.Event(), asyncio.Event()
    request_leg = DirectPeers.request_leg

    async def held(self: DirectPeers, cell: str, call: LegCall, direction: Direction, *, timeout_s: float) -> LegMark:
        if isinstance(call.action, ArriveUser):
            copied.set()
            await leave.wait()
        return await request_leg(self, cell, call, direction, timeout_s=timeout_s)

    monkeypatch.setattr(DirectPeers, "request_leg", held)
    async with serving(played.dsns) as here:
        here.directory.homes |= {played.ann: HERE, played.ben: HERE, played.carl: THERE}
        begin = asked(BeginMove(user_id=played.carl, to_cell=HERE, region=None), played.carl)
        moving = asyncio.create_task(here.there.execute(begin))
        await copied.wait()
        during = await here.reconciliations[HERE].reconcile(Order(full=True))
        leave.set()
        await moving
        await here.quiet()
        after = [await here.reconciliations[cell].reconcile(Order(full=True)) for cell in (HERE, THERE)]
        return [finding for report in (during, *after) for finding in report.findings]


async def test_reconciliation_finds_nothing_wrong_during_a_move(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was copied of the user's history and answers is none of the cell's yet."""
    assert await found_during_a_move(played, monkeypatch) == []


async def test_answers_that_are_taken_for_the_cells_own_are_found_wrong(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ablation: what a user brings does not say in whose log it was reached."""
    keep = store_moves.keep_brought

    async def as_own(connection: Connection, rows: Sequence[OutcomeRow], seal: OutcomeSeal | None) -> None:
        await keep(connection, [row._replace(cell=None) for row in rows], seal)

    for module in (store_moves, store_module):
        monkeypatch.setattr(module, "keep_brought", as_own)
    assert {finding.check for finding in await found_during_a_move(played, monkeypatch)} == {Check.OUTCOME}
