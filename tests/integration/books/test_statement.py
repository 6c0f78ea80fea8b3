"""Statements over gRPC: every movement once, with what was there before and after it, and proved at both ends."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
import pytest_asyncio

from cellbook.v1 import audit_pb2, types_pb2
from cells.domain.commands import Transfer
from cells.domain.values import Money
from cells.encoding import codec
from server.cli.audit import trial
from server.cli.client import ClientError
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.audit_rig import CELLS, Served, Town, town
from tests.integration.books.past_rig import Truth, story, truth
from tests.integration.database import ask
from tests.integration.json_output import as_json
from tests.integration.services_rig import AUDITOR, as_user, refusal_of
from tests.local_cells import deposit, open_auction, open_user, request, until_async

if TYPE_CHECKING:
    from cellbook.v1.ledger_pb2 import Balance

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True, slots=True)
class Rig:
    town: Town
    served: Served
    users: list[UUID]
    truth: Truth

    async def page(self, user_id: UUID, **more: Any) -> audit_pb2.GetStatementResponse:  # noqa: ANN401 - fields
        reply = await self.served.ask("GetStatement", {"user_id": user_id} | more, by=AUDITOR)
        assert isinstance(reply, audit_pb2.GetStatementResponse)
        return reply

    async def pages(self, user_id: UUID, size: int, **more: Any) -> list[audit_pb2.GetStatementResponse]:  # noqa: ANN401
        """All pages; between them the account moves on."""
        pages = [await self.page(user_id, page_size=size, **more)]
        while pages[-1].next_page_token:
            await self.served.parts.cell.execute(request(deposit(user_id)))
            pages.append(await self.page(user_id, page_size=size, page_token=pages[-1].next_page_token, **more))
        return pages


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(cluster: EmbeddedPostgres, template: str) -> AsyncIterator[Rig]:
    async with town(cluster, template) as cells:
        users = await story(cells, seed=11)
        served = cells.cells[CELLS[0]]
        yield Rig(cells, served, users, await truth(served.dsn))


def buckets(balance: "Balance") -> tuple[int, int, int]:
    return balance.available_minor, balance.reserved_minor, balance.pending_minor


def added(*each: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*each, strict=True)))


def at(position: int) -> types_pb2.AsOf:
    return types_pb2.AsOf(position=position)


@pytest.mark.parametrize("size", [3, 1_000])
async def test_every_movement_is_told_once_and_adds_up(rig: Rig, size: int) -> None:
    """Between any two moments, over pages during which the account moves on: what the log's postings say."""
    end = len(rig.truth.rows)
    for user_id in rig.users:
        for after, until in ((0, end), (end // 3, 2 * end // 3), (end // 2, end // 2)):
            if rig.truth.state(user_id, until) is None:
                continue
            pages = await rig.pages(user_id, size, **{"from": at(after)}, to=at(until))
            told = [movement for page in pages for movement in page.movements]
            own = f"users/{user_id}/"
            expected = {
                (line.currency, row.position)
                for row in rig.truth.rows[after:until]
                for line in codec.postings_of(row)
                if line.account.startswith(own)
            }
            assert [(each.after.currency, each.position) for each in told] == sorted(expected)
            opening, closing = rig.truth.balances(user_id, after), rig.truth.balances(user_id, until)
            for total in pages[0].totals:
                currency = total.closing.currency
                of_it = [each for each in told if each.after.currency == currency]
                assert buckets(total.opening) == opening.get(currency, (0, 0, 0))
                assert buckets(total.closing) == closing[currency]
                assert total.proved
                assert total.movements == len(of_it)
                assert added(buckets(total.opening), *(buckets(each.change) for each in of_it)) == closing[currency]
                running = buckets(total.opening)
                for each in of_it:
                    assert buckets(each.before) == running
                    running = buckets(each.after)
            assert {total.closing.currency for total in pages[0].totals} == set(closing)


async def test_a_movement_says_who_when_why_and_against_which_account(rig: Rig) -> None:
    """Counter-postings make it balance; an effect within the cell names the type of its cause."""
    pages = [await rig.page(user_id, page_size=1_000) for user_id in rig.users]
    movements = [movement for page in pages for movement in page.movements]
    for each in movements:
        change = sum(buckets(each.change))
        assert change + sum(line.amount_minor for line in each.counter_postings) == 0
        assert each.principal == "service/test"
        assert str(UUID(each.command_id)) == each.command_id
        assert each.recorded_at_us
        assert each.hlc.physical_ms
    types = {(each.event_type, each.cause_event_type) for each in movements}
    assert types >= {("DEPOSITED", ""), ("TRANSFER_RECEIVED", "TRANSFER_SENT"), ("TRANSFER_RECEIVED", "HOLD_CAPTURED")}


async def test_one_currency_alone(rig: Rig) -> None:
    """And nothing of the others; of one that was never held there is nothing to tell."""
    reply = await rig.page(rig.users[0], page_size=1_000, currency="EUR")
    assert {each.after.currency for each in reply.movements} == {"EUR"}
    assert [total.closing.currency for total in reply.totals] == ["EUR"]
    none = await rig.page(rig.users[0], currency="JPY")
    assert not none.movements
    assert not none.totals


async def test_what_has_no_statement_is_refused(rig: Rig) -> None:
    """Nobody's, one that ends before it begins or before the account was there, one from or to the future."""
    end, user = len(rig.truth.rows), rig.users[0]
    first = next(row.position for row in rig.truth.rows if row.aggregate_id == user)
    for reason, user_id, more in (
        ("WRONG_CELL", await _elsewhere(rig), {}),
        ("FIELD_INVALID", user, {"from": at(end), "to": at(end - 1)}),
        ("NOT_THERE_YET", user, {"to": at(first - 1)}),
        ("MOMENT_NOT_REACHED", user, {"to": at(2**62)}),
        ("MOMENT_NOT_REACHED", user, {"from": types_pb2.AsOf(time_ms=2**46)}),
    ):
        assert (await refusal_of(rig.page(user_id, **more))).reason == reason


async def _elsewhere(rig: Rig) -> UUID:
    homes = rig.served.parts.cell.homes._heard
    return next(user_id for user_id, (home, _) in homes.items() if home.cell == CELLS[1])


async def test_users_see_their_own_and_no_other(rig: Rig) -> None:
    """A person may ask for a statement of theirs."""
    own, other = rig.users[:2]
    assert (await rig.served.ask("GetStatement", user_id=own, by=as_user(own))).movements
    theirs = rig.served.ask("GetStatement", user_id=other, by=as_user(own))
    assert (await refusal_of(theirs)).reason == "NOT_YOUR_ACCOUNT"


async def test_a_changed_row_is_no_line_of_a_statement(rig: Rig) -> None:
    """An entry that its event does not bear out, a changed event, an entry that is gone: refused by position."""
    cell, dsn = rig.served.parts.cell, rig.served.dsn
    user = await open_user(cell)
    positions = [(await cell.execute(request(deposit(user)))).position for _ in range(4)]
    for table, change, reason in (
        ("account_entries", "available_change = 7, available_after = available_after + 7", "ENTRY_DAMAGED"),
        ("event_store", "payload = jsonb_set(payload, '{amount_minor}', '\"1\"')", "EVENT_DAMAGED"),
    ):
        await ask(dsn, f"ALTER TABLE {table} DISABLE TRIGGER ALL")
        await ask(dsn, f"CREATE TABLE kept AS SELECT * FROM {table} WHERE position = $1", positions[1])  # noqa: S608
        await ask(dsn, f"UPDATE {table} SET {change} WHERE position = $1", positions[1])  # noqa: S608
        refused = await refusal_of(rig.page(user))
        assert (refused.reason, refused.facts["position"]) == (reason, str(positions[1]))
        later = await rig.page(user, **{"from": at(positions[2])})
        assert [each.position for each in later.movements] == [positions[3]]
        await ask(dsn, f"DELETE FROM {table} WHERE position = $1", positions[1])  # noqa: S608
        if table == "account_entries":
            assert (await refusal_of(rig.page(user))).reason == "ENTRY_DAMAGED"
        await ask(dsn, f"INSERT INTO {table} SELECT * FROM kept")  # noqa: S608
        await ask(dsn, "DROP TABLE kept")
        await ask(dsn, f"ALTER TABLE {table} ENABLE TRIGGER ALL")
    assert len((await rig.page(user)).movements) == len(positions)


async def test_an_event_that_moves_nothing_is_no_movement(rig: Rig) -> None:
    """The release of a bid whose hold backs a higher one has no posting: it is no line, and is not counted."""
    ann, ben = await rig.town.user(CELLS[0], 10_000), await rig.town.user(CELLS[1])
    auction_id = await open_auction(rig.town.cells[CELLS[1]].parts.cell, ben)
    for amount in (500, 900):
        await rig.town.bid(CELLS[0], ann, CELLS[1], auction_id, amount)
    query = """SELECT position, (available_change, reserved_change, pending_change) = (0, 0, 0) FROM account_entries
        WHERE account_id = $1 ORDER BY position"""
    entries: list[tuple[int, bool]] = []

    async def released() -> bool:
        entries[:] = [(position, empty) for position, empty in await ask(rig.served.dsn, query, ann)]
        return any(empty for _, empty in entries)

    await until_async(released)
    page = await rig.page(ann)
    assert [each.position for each in page.movements] == [position for position, empty in entries if not empty]
    assert [total.movements for total in page.totals] == [len(page.movements)]


# --- `cellbook audit trial-balance`: cells that talk to each other, as one ledger at one moment ---


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
        await until_async(lambda: ask(cells.cells[HERE].dsn, query))
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
