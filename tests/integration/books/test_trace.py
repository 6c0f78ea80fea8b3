"""Traces over three real cells: every cause, every effect, and who is missing."""

import json
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from cellbook.v1 import audit_pb2
from cells.domain.commands import Withdraw
from cells.domain.refusals import InsufficientFunds
from cells.domain.values import Money
from server.cli.audit import trace as shown
from server.cli.client import ClientError
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.audit_rig import CELLS, Sale, Town, town
from tests.integration.database import ask
from tests.integration.json_output import as_json
from tests.integration.services_rig import AUDITOR, refusal_of
from tests.local_cells import request

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(cluster: EmbeddedPostgres, template: str) -> AsyncIterator[Town]:
    async with town(cluster, template) as cells:
        yield cells


async def traced(rig: Town, subject: object, *, cell: str = CELLS[0], event_max: int = 0) -> audit_pb2.TraceResponse:
    answer = await rig.cells[cell].ask("Trace", subject=str(subject), event_max=event_max, by=AUDITOR)
    assert isinstance(answer, audit_pb2.TraceResponse)
    return answer


async def logs(rig: Town) -> dict[str, tuple[str, str | None]]:
    """Event id -> its type and its cause, over all cells, from the tables."""
    rows = [
        row
        for served in rig.cells.values()
        for row in await ask(served.dsn, "SELECT event_id::text, event_type, causation_id::text FROM event_store")
    ]
    return {event_id: (event_type, cause) for event_id, event_type, cause in rows}


def closure(events: dict[str, tuple[str, str | None]], subjects: set[str]) -> set[str]:
    """What a trace of `subjects` must hold: they, all that led to them, and all that came of them."""
    wanted, waiting = set(subjects), set(subjects)
    while waiting:
        waiting = {events[each][1] or "" for each in waiting} & set(events) - wanted
        wanted |= waiting
    effects, waiting = set(subjects), set(subjects)
    while waiting:
        waiting = {event for event, (_, cause) in events.items() if cause in waiting} - effects
        effects |= waiting
    return wanted | effects


async def test_a_trace_holds_every_cause_and_effect_in_every_cell(rig: Town) -> None:
    """Of a saga, a command, an auction and a single event: as the tables of all cells say, cause before effect."""
    sale, other = await rig.sale(), await rig.sale()
    events = await logs(rig)
    flow = {
        str(row[0])
        for served in rig.cells.values()
        for row in await ask(
            served.dsn, "SELECT event_id FROM event_store WHERE $1 IN (correlation_id, aggregate_id)", sale.saga_id
        )
    }
    reply = await traced(rig, sale.saga_id)
    told = {each.event.event_id for each in reply.events}
    assert told == closure(events, flow)
    assert {each.event.cell for each in reply.events} == set(CELLS)
    assert sorted(reply.cells) == sorted(CELLS)
    assert not list(shown.problems(reply))
    seen: set[str] = set()
    for each in reply.events:
        assert not each.event.causation_id or each.event.causation_id in seen
        seen.add(each.event.event_id)
    assert reply.events[0].event.event_type == "AUCTION_CLOSED"
    assert reply.events[0].role == audit_pb2.TRACE_ROLE_CAUSE
    assert str(other.saga_id) not in {each.event.correlation_id for each in reply.events}


async def test_any_cell_gives_the_same_trace(rig: Town) -> None:
    """Whichever is asked, also one where nothing of the flow happened first."""
    sale = await rig.sale()
    replies = [await traced(rig, sale.close_command_id, cell=cell) for cell in CELLS]
    ids = [[each.event.event_id for each in reply.events] for reply in replies]
    assert ids[0] == ids[1] == ids[2]
    assert {each.event.event_type for each in replies[0].events} >= {"AUCTION_CLOSED", "SAGA_COMPLETED", "ESCROW_SENT"}


async def test_a_single_event_is_traced_up_and_down_but_not_sideways(rig: Town) -> None:
    """A leg in the middle: the closing of the auction above it, the end of the saga below it, no bid beside it."""
    sale = await rig.sale()
    everything = await traced(rig, sale.saga_id)
    leg = next(each.event for each in everything.events if each.event.event_type == "ESCROW_FUNDED")
    reply = await traced(rig, leg.event_id, cell=CELLS[2])
    roles = {each.event.event_type: each.role for each in reply.events}
    assert roles["ESCROW_FUNDED"] == audit_pb2.TRACE_ROLE_SUBJECT
    assert roles["AUCTION_CLOSED"] == audit_pb2.TRACE_ROLE_CAUSE
    assert roles["SAGA_COMPLETED"] == audit_pb2.TRACE_ROLE_EFFECT
    told = {each.event.event_id for each in reply.events}
    assert told == closure(await logs(rig), {leg.event_id})
    who = next(each for each in reply.events if each.role == audit_pb2.TRACE_ROLE_SUBJECT)
    assert who.principal.startswith("peer/")
    assert who.event.user_id == str(sale.winner)
    assert sum(line.amount_minor for line in who.event.postings) == 0


async def test_an_auction_is_traced_by_its_name_with_its_bids(rig: Town) -> None:
    """All that happened to it, and what caused it elsewhere: the bid in the bidder's cell."""
    sale = await rig.sale()
    reply = await traced(rig, f"cells/{CELLS[1]}/auctions/{sale.auction_id}")
    types = {each.event.event_type for each in reply.events}
    assert types >= {"AUCTION_CREATED", "BID_PLACED", "FUNDS_RESERVED", "AUCTION_CLOSED", "OWNERSHIP_TRANSFERRED"}
    bid = await traced(rig, sale.bid_command_id)
    assert {each.event.event_type for each in bid.events} >= {"FUNDS_RESERVED", "BID_PLACED"}


async def test_a_cell_that_is_away_is_named(rig: Town) -> None:
    """The others tell what they know; whose cause lies in the missing cell says so; nothing is passed off as whole."""
    sale = await rig.sale()
    with rig.away(CELLS[2]):
        reply = await traced(rig, sale.saga_id)
    assert [missing.cell for missing in reply.missing] == [CELLS[2]]
    assert CELLS[2] not in {each.event.cell for each in reply.events}
    assert sorted(reply.cells) == sorted(CELLS[:2])
    assert any(each.cause_missing for each in reply.events)
    assert f"{CELLS[2]} is missing" in "; ".join(shown.problems(reply))
    content = shown.trace_json(reply)
    assert content["whole"] is False
    assert content["missing"][0]["cell"] == CELLS[2]


async def test_unknown_is_said_only_when_all_cells_have_said_so(rig: Town) -> None:
    """With a cell away, what nobody knows may be there: an empty answer that names it, not a no."""
    refused = await refusal_of(traced(rig, uuid4()))
    assert refused.reason == "NOTHING_TO_TRACE"
    assert all(cell in str(refused.facts["cells"]) for cell in CELLS)
    with rig.away(CELLS[2]):
        reply = await traced(rig, uuid4())
    assert not reply.events
    assert [missing.cell for missing in reply.missing] == [CELLS[2]]


async def test_the_command_shows_the_tree_and_fails_where_it_is_not_whole(
    rig: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who, when, why, where and which money, each cause by its number; a missing cell in words and JSON."""
    sale = await rig.sale()
    async with rig.reach() as reach:
        await shown.run_trace(reach, str(sale.saga_id), 500)
        text = capsys.readouterr().out
        for said in (
            "AUCTION_CLOSED",
            "a client or clock",
            "#1",
            "service/test",
            "escrow +50.00 USD",
            str(sale.winner),
        ):
            assert said in text, text
        with rig.away(CELLS[2]):
            with as_json(), pytest.raises(ClientError, match=f"{CELLS[2]} is missing"):
                await shown.run_trace(reach, str(sale.saga_id), 500)
            content = json.loads(capsys.readouterr().out)
            assert (content["whole"], content["missing"][0]["cell"]) == (False, CELLS[2])
            assert content["events"][0]["event"]["payload"]["saga_id"] == str(sale.saga_id)


async def test_a_command_that_was_refused_is_told_as_such(rig: Town, capsys: pytest.CaptureFixture[str]) -> None:
    """By whom, when and why, whichever cell is asked: nothing came of it, and that is not the same as unknown."""
    user, command_id = await rig.user(CELLS[1], 5), uuid4()
    paid = Withdraw(user_id=user, amount=Money("USD", 6), external_reference="too much")
    with pytest.raises(InsufficientFunds):
        await rig.cells[CELLS[1]].parts.cell.execute(request(paid, command_id=command_id))
    reply = await traced(rig, command_id, cell=CELLS[0])
    assert not reply.events
    [refused] = reply.refused
    assert refused.cell == CELLS[1]
    assert "6 USD minor units are needed and 5 are available" in refused.refusal.message
    async with rig.reach() as reach:
        await shown.run_trace(reach, str(command_id), 500)
    assert f"{CELLS[1]} refused this command at" in capsys.readouterr().out


async def test_money_from_outside_is_traced_by_the_reference_of_the_bank(rig: Town) -> None:
    """Whichever cell is asked; a deposit and a withdrawal with the same reference are told apart."""
    user = await rig.user(CELLS[1], 5)
    paid_out = Withdraw(user_id=user, amount=Money("USD", 2), external_reference="statement/7 line 3")
    await rig.cells[CELLS[1]].parts.cell.execute(request(paid_out))
    reply = await traced(rig, "withdrawals/statement/7 line 3", cell=CELLS[0])
    [found] = reply.events
    assert (found.event.event_type, found.event.cell) == ("WITHDRAWN", CELLS[1])
    assert found.role == audit_pb2.TRACE_ROLE_SUBJECT
    refused = await refusal_of(traced(rig, "deposits/statement/7 line 3", cell=CELLS[0]))
    assert refused.reason == "NOTHING_TO_TRACE"


async def test_what_is_cut_off_is_said(rig: Town) -> None:
    """At most so many events, causes first, and that there are more."""
    sale = await rig.sale()
    reply = await traced(rig, sale.saga_id, event_max=5)
    assert reply.truncated
    assert len(reply.events) == 5
    assert reply.events[0].event.event_type == "AUCTION_CLOSED"
    assert "cut off after 5 events" in "; ".join(shown.problems(reply))


POISONS = {
    "an amount": ("payload = jsonb_set(payload, '{amount_minor}', '\"1\"')", "leaf hash"),
    "a number that no event has": ("payload = jsonb_set(payload, '{x}', '1.5')", "1.5"),
    "a payload that is no object": ("payload = '[]'", "leaf hash"),
    "an unknown type": ("event_type = 'MONEY_VANISHED'", "leaf hash"),
    "who did it": ("metadata = jsonb_set(metadata, '{principal}', '\"service/other\"')", "leaf hash"),
    "metadata without a version": ("metadata = '{}'", "leaf hash"),
}


async def test_a_changed_row_is_shown_and_named(rig: Town) -> None:
    """Somebody with the database's password has changed an event: it is not believed, and the rest is still told."""
    for poison, (change, said) in POISONS.items():
        sale = await rig.sale()
        position = await tampered(rig.cells[CELLS[0]].dsn, sale, change)
        reply = await traced(rig, sale.saga_id, cell=CELLS[1])
        [wrong] = [each for each in reply.events if each.problem]
        assert (wrong.event.cell, wrong.event.position) == (CELLS[0], position), poison
        assert said in wrong.problem, poison
        assert f"{CELLS[0]}/{position}" in "; ".join(shown.problems(reply))
        json.dumps(shown.trace_json(reply))


async def tampered(dsn: str, sale: Sale, change: str) -> int:
    """Changes the winner's ESCROW_SENT as a superuser can. Its position."""
    await ask(dsn, "ALTER TABLE event_store DISABLE TRIGGER append_only")
    [(position,)] = await ask(
        dsn,
        f"UPDATE event_store SET {change} "  # noqa: S608 - of this file
        "WHERE event_type = 'ESCROW_SENT' AND aggregate_id = $1 RETURNING position",
        UUID(str(sale.winner)),
    )
    await ask(dsn, "ALTER TABLE event_store ENABLE ALWAYS TRIGGER append_only")
    return int(position)
