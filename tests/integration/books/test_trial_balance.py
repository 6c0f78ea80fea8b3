"""`cellbook audit trial-balance`: cells that talk to each other, as one ledger at one moment, whatever is under way."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from cells.domain.commands import Transfer
from cells.domain.values import Money
from server.cli.audit import trial
from server.cli.client import ClientError
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.audit_rig import CELLS, Town, town
from tests.integration.database import ask
from tests.integration.json_output import as_json
from tests.local_cells import request, until_async

pytestmark = pytest.mark.asyncio(loop_scope="module")

Out = pytest.CaptureFixture[str]
HERE, THERE, AWAY = CELLS
# Of all that moves money between cells: what is sent is in transit at its own stamp.
STAMPS = """SELECT hlc_physical, hlc_logical FROM event_store JOIN clearing_entries USING (position)"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cells(cluster: EmbeddedPostgres, template: str) -> AsyncIterator[Town]:
    async with town(cluster, template) as built:
        await built.sale()
        yield built


async def test_at_any_cut_what_is_in_transit_is_the_difference(cells: Town, capsys: Out) -> None:
    """A sale over three cells, cut at moments of its own: all accounts and what is in transit come to zero."""
    stamps = [stamp for each in cells.cells.values() for stamp in await ask(each.dsn, STAMPS)]
    seen = set()
    async with cells.reach() as reach:
        for physical_ms, logical in stamps:
            found = await trial.fetched(reach, f"{physical_ms}+{logical}")
            assert found.problems() == []
            assert all(own + transit == 0 for own, transit in found.whole.totals().values())
            seen |= {(each.sender, each.receiver) for each in found.whole.in_transit}
        with as_json():
            await trial.run_trial(reach, "")
    told = json.loads(capsys.readouterr().out)
    assert (told["problems"], told["in_transit"]) == ([], [])
    assert told["totals"] == [{"currency": "USD", "accounts_minor": "0", "in_transit_minor": "0"}]
    assert seen == {(HERE, THERE), (THERE, AWAY)}


async def test_money_under_way_is_listed_by_its_movement(cells: Town, capsys: Out) -> None:
    """A transfer to a cell that is away: from where, to where, of which saga; columns stand below each other."""
    ann, carl = await cells.user(HERE, 5_000), await cells.user(AWAY)
    sent = Transfer(from_user_id=ann, to_user_id=carl, amount=Money("USD", 1_234), to_cell=AWAY)
    query = "SELECT aggregate_id FROM event_store WHERE event_type = 'REMOTE_TRANSFER_SENT'"
    with cells.away(AWAY):
        under_way = asyncio.create_task(cells.cells[HERE].parts.cell.execute(request(sent)))

        async def has_left() -> object:
            return await ask(cells.cells[HERE].dsn, query)

        await until_async(has_left)
        async with cells.reach() as reach:
            found = await trial.fetched(reach, "")
            [movement] = found.whole.in_transit
            assert (movement.sender, movement.receiver, movement.amount_minor) == (HERE, AWAY, 1_234)
            assert found.saga_of(movement.clearing_id)
            await trial.run_trial(reach, "")
    text = capsys.readouterr().out
    assert "ok USD: accounts -12.34 + in transit 12.34 = 0" in text
    [head] = [line for line in text.splitlines() if line.startswith("account ")]
    rows = [line for line in text.splitlines() if " USD " in line and not line.startswith(movement.clearing_id)]
    assert {len(line) for line in rows if "eliminated" not in line and "ok" not in line} == {len(head)}, text
    await under_way
    async with cells.reach() as reach:
        assert not (await trial.fetched(reach, "")).whole.in_transit


async def test_without_one_of_the_cells_there_is_no_answer(cells: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where a cell is not asked, nor where its clock has not come to the cut; a position is no cut."""
    async with cells.reach(HERE, THERE) as reach:
        with pytest.raises(ClientError, match=f"{AWAY} is not among the cells"):
            await trial.run_trial(reach, "")
        with pytest.raises(ClientError, match="a position is of one log alone"):
            await trial.run_trial(reach, "@5")
    monkeypatch.setattr(trial, "PATIENCE_S", 0.0)
    async with cells.reach() as reach:
        with pytest.raises(ClientError, match=f"{HERE} has not come to the cut, 2100-01-01"):
            await trial.run_trial(reach, "2100-01-01")


async def test_a_clock_that_is_a_little_behind_is_waited_for(cells: Town) -> None:
    """A cut that no cell's clock has come to yet."""
    soon_ms = time.time_ns() // 1_000_000 + 300
    async with cells.reach() as reach:
        assert (await trial.fetched(reach, f"{soon_ms}+0")).problems() == []
