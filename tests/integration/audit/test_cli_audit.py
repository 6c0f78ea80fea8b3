"""`cellbook audit` against real cells: what an auditor sees of the past, and when the command fails."""

import csv
import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from cellbook.v1 import audit_pb2
from cells.domain.commands import Reserve
from cells.domain.values import Money
from server.cli.audit import balances, past, statement
from server.cli.audit.statement import Form
from server.cli.client import ClientError, LedgerRefusal
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.audit_rig import CELLS, Sale, Served, Town, town
from tests.integration.database import ask
from tests.integration.json_output import as_json
from tests.local_cells import deposit, request

pytestmark = pytest.mark.asyncio(loop_scope="module")

Out = pytest.CaptureFixture[str]


@dataclass(frozen=True, slots=True)
class Rig:
    town: Town
    sale: Sale

    def served(self, name: str = CELLS[0]) -> Served:
        return self.town.cells[name]

    @property
    def winner(self) -> str:
        return str(self.sale.winner)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(cluster: EmbeddedPostgres, template: str) -> AsyncIterator[Rig]:
    """A sale over three cells; then the winner deposits and reserves."""
    async with town(cluster, template) as cells:
        sale = await cells.sale()
        cell = cells.cells[CELLS[0]].parts.cell
        await cell.execute(request(deposit(sale.winner, 12_34)))
        await cell.execute(request(Reserve(user_id=sale.winner, amount=Money("USD", 1_00), expire_time_ms=None)))
        yield Rig(cells, sale)


async def test_a_statement_is_shown_with_its_proof(rig: Rig, capsys: Out) -> None:
    """Opening, each movement with its cause and its counter-accounts, closing, and that it adds up."""
    async with rig.town.reach(CELLS[0]) as reach:
        await statement.run_statement(reach, rig.winner, form=Form.TABLE, limit=1_000)
    text = capsys.readouterr().out
    for said in ("opening, USD", "closing, USD", "ESCROW_SENT", "clearing/eu-west +50.00", "by SAGA_STARTED"):
        assert said in text, text
    assert "ok USD: opening + 5 movements = closing: available 0.00 + 961.34 = 961.34, reserved 0.00 + 1.00" in text


async def test_a_statement_as_csv_can_be_added_up_by_any_program(rig: Rig, capsys: Out) -> None:
    """In major units, each row from before by the change to after, over more than one page."""
    async with rig.town.reach(CELLS[0]) as reach:
        await statement.run_statement(reach, rig.winner, form=Form.CSV, limit=1_000)
        rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
        assert [row["event_type"] for row in rows][-1] == "FUNDS_RESERVED"
        cents = [
            {name: int(row[name].replace(".", "")) for name in row if name.startswith("available_")} for row in rows
        ]
        assert all(row["available_before"] + row["available_change"] == row["available_after"] for row in cents)
        assert cents[-1]["available_after"] == 961_34
        with pytest.raises(ClientError, match="cut off after 2 movements"):
            await statement.run_statement(reach, rig.winner, form=Form.CSV, limit=2)


async def test_a_statement_as_json_says_whether_it_is_proved(
    rig: Rig, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also over many pages; a movement that is missing from what a cell says is found out here."""
    monkeypatch.setattr(statement, "PAGE", 2)
    async with rig.town.reach(CELLS[0]) as reach:
        await statement.run_statement(reach, rig.winner, "@0", "", "USD", Form.JSON, 1_000)
        content = json.loads(capsys.readouterr().out)
        assert (content["proved"], len(content["movements"])) == (True, 5)
        head = await statement.fetched(reach.cells[0], _request(rig), 1_000)
        assert list(head.problems()) == []
        del head.movements[1]
        assert any("not what was after the movement above it" in problem for problem in head.problems())
        del head.movements[1:]
        assert any("do not come to the closing balance" in problem for problem in head.problems())


def _request(rig: Rig) -> audit_pb2.GetStatementRequest:
    return audit_pb2.GetStatementRequest(user_id=rig.winner)


async def test_a_balance_is_shown_as_it_was_with_its_holds(rig: Rig, capsys: Out) -> None:
    """After its first deposit, and at the end; in words and as JSON."""
    [(first,)] = await ask(
        rig.served().dsn, "SELECT position FROM account_entries WHERE account_id = $1 LIMIT 1", rig.sale.winner
    )
    async with rig.town.reach(CELLS[0]) as reach:
        await past.run_balance(reach, rig.winner, f"@{first}")
        assert "1,000.00" in capsys.readouterr().out
        await past.run_balance(reach, rig.winner, "")
        now = capsys.readouterr().out
        assert "961.34" in now
        assert "1.00 USD  never" in now
        with as_json():
            await past.run_balance(reach, rig.winner, f"@{first}")
        content = json.loads(capsys.readouterr().out)
        assert content["balances"][0]["available_minor"] == "100000"
        assert content["as_of"]["position"] == str(first)
        with pytest.raises(LedgerRefusal, match="NOT_THERE_YET"):
            await past.run_balance(reach, rig.winner, "@0")


async def test_who_owned_what_and_how_an_auction_stood(rig: Rig, capsys: Out) -> None:
    """Before the hammer the seller's and active, afterwards the winner's and settled."""
    cell, sale = CELLS[1], rig.sale
    [(closed, asset)] = await ask(
        rig.served(cell).dsn,
        "SELECT e.position, (SELECT state::jsonb->>'asset_id' FROM auctions WHERE id = $1) FROM event_store e "
        "WHERE e.aggregate_id = $1 AND e.event_type = 'AUCTION_CLOSED'",
        sale.auction_id,
    )
    auction_name, asset_name = f"cells/{cell}/auctions/{sale.auction_id}", f"cells/{cell}/assets/{asset}"
    async with rig.town.reach() as reach:
        for at, state, owner in ((f"@{closed - 1}", "active", sale.seller), ("", "settled", sale.winner)):
            await past.run_auction(reach, auction_name, at)
            assert f"state       {state}" in capsys.readouterr().out
            await past.run_asset(reach, asset_name, at)
            assert f"owner      {owner}" in capsys.readouterr().out
        with pytest.raises(ClientError, match="is no name"):
            await past.run_asset(reach, str(asset), "")


async def test_all_balances_add_up_to_the_postings(rig: Rig, capsys: Out) -> None:
    """Of all cells; a user's balance that was changed in the index is found by what the postings come to."""
    async with rig.town.reach() as reach:
        await balances.run_balances(reach, "")
        text = capsys.readouterr().out
        assert text.count("postings sum to zero") == len(CELLS)
        with as_json():
            await balances.run_balances(reach, "@2")
        content = json.loads(capsys.readouterr().out)
        assert [each["as_of"]["position"] for each in content["cells"]] == ["2"] * len(CELLS)
        dsn = rig.served().dsn
        last = "position = (SELECT max(position) FROM account_entries)"
        await ask(dsn, "ALTER TABLE account_entries DISABLE TRIGGER ALL")
        await ask(dsn, f"UPDATE account_entries SET available_after = available_after + 7 WHERE {last}")  # noqa: S608
        with pytest.raises(ClientError, match="us-east: users/available in USD is by -7 more"):
            await balances.run_balances(reach, "")
        await ask(dsn, f"UPDATE account_entries SET available_after = available_after - 7 WHERE {last}")  # noqa: S608
        await ask(dsn, "ALTER TABLE account_entries ENABLE ALWAYS TRIGGER append_only")


async def test_a_stream_is_replayed_wherever_it_is(rig: Rig, capsys: Out) -> None:
    """Found without being told the cell; a state that was changed makes the command fail."""
    async with rig.town.reach() as reach:
        await past.run_stream(reach, str(rig.sale.auction_id), "")
        text = capsys.readouterr().out
        assert f"auction {rig.sale.auction_id} in {CELLS[1]}" in text
        assert "each with its leaf hash checked" in text
        change = "UPDATE auctions SET state = jsonb_set(state::jsonb, '{bids_accepted}', '7') WHERE id = $1"
        await ask(rig.served(CELLS[1]).dsn, change, rig.sale.auction_id)
        with as_json(), pytest.raises(ClientError, match="1 of what is kept is not what the events say"):
            await past.run_stream(reach, str(rig.sale.auction_id), "")
        assert "the state that the cell works with" in capsys.readouterr().out
        with as_json(), pytest.raises(ClientError, match=f"no stream {rig.winner[:-1]}"):
            await past.run_stream(reach, rig.winner[:-1] + ("0" if rig.winner[-1] != "0" else "1"), "")
