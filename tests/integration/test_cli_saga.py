"""`cellbook saga` against a real cell: what an operator sees, and what becomes of an order."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cellbook.v1 import saga_pb2
from cellbook.v1.saga_pb2_grpc import SagaServiceStub
from server.cli import command
from server.cli.client import Client, ClientError, LedgerRefusal
from server.cli.main import app
from server.cli.reach import Reach
from server.cli.saga import command as ask
from server.cli.saga import show
from server.cli.texts import span_text, time_text
from tests.integration.services.test_services_sagas import stranded
from tests.integration.services_rig import HERE, THERE, Rig
from tests.local_cells import until_async

NOWHERE = "127.0.0.1:1"
RUN = CliRunner()
pytestmark = pytest.mark.usefixtures("quick_retries")
OPEN = saga_pb2.ListSagasRequest(states=[saga_pb2.SAGA_STATE_RUNNING, saga_pb2.SAGA_STATE_COMPENSATING])


@pytest.fixture
async def reach(rig: Rig) -> AsyncIterator[Reach]:
    """Two cells: one that serves, and one where nobody is."""
    async with Client(NOWHERE) as client:
        there = client.cell(name=THERE, region="eu", address=NOWHERE)
        here = client.cell(name=HERE, region="us", address=NOWHERE)
        here.sagas = SagaServiceStub(rig.channel)
        yield Reach(client=client, cells=[here, there], listed=[THERE, HERE])


def shown(tell: object) -> str:
    console = Console(width=200, highlight=False)
    with console.capture() as captured:
        console.print(tell)
    return captured.get()


async def test_a_cell_that_does_not_answer_is_named(rig: Rig, reach: Reach) -> None:
    """The sagas of the others are shown, and that its own are missing."""
    saga_id = await stranded(rig)
    listed = await ask.listed(reach, OPEN, 10)
    assert [(cell, saga.saga_id) for cell, saga in listed.sagas] == [(HERE, saga_id)]
    assert list(listed.silent) == [THERE]
    assert "does not answer, its sagas are missing" in listed.silent_lines[0]


async def test_a_list_goes_over_pages_up_to_its_limit(rig: Rig, reach: Reach, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oldest first, and that there are more is said."""
    sagas = [await stranded(rig) for _ in range(5)]
    monkeypatch.setattr(ask, "PAGE", 2)
    everything = await ask.listed(reach, OPEN, 5)
    assert [saga.saga_id for _, saga in everything.sagas] == sagas
    assert not everything.more
    first = await ask.listed(reach, OPEN, 3)
    assert [saga.saga_id for _, saga in first.sagas] == sagas[:3]
    assert first.more


async def test_orders_reach_the_cell_that_drives_the_saga(rig: Rig, reach: Reach) -> None:
    """Paused, resumed, turned back; after the end an order is refused with the ledger's own words."""
    saga_id = await stranded(rig)
    _, paused = await ask.ordered(reach, "pause", saga_id, "looking at it")
    assert paused.paused
    assert "paused" in shown(show.list_table([(HERE, paused)], paused.start_time_ms))
    with pytest.raises(LedgerRefusal, match="SAGA_IS_PAUSED"):
        await ask.ordered(reach, "retry", saga_id, "")
    _, resumed = await ask.ordered(reach, "resume", saga_id, "")
    assert not resumed.paused
    _, turned = await ask.ordered(reach, "compensate", saga_id, "a forged lamp")
    assert turned.state == saga_pb2.SAGA_STATE_COMPENSATING
    rig.peers.cut.clear()
    await until_async(
        lambda: ask.found_saga(reach, saga_id), lambda found: found[1].saga.state == saga_pb2.SAGA_STATE_COMPENSATED
    )
    with pytest.raises(LedgerRefusal, match="SAGA_HAS_ENDED"):
        await ask.ordered(reach, "pause", saga_id, "")
    told = [show.news_line(news) async for _, news in ask.watched(reach, saga_id)]
    assert [line for line in told if "SAGA_PAUSED" in line and "looking at it" in line]
    assert "SAGA_COMPENSATED" in told[-1]


async def test_one_saga_is_shown_with_all_that_an_operator_needs(rig: Rig, reach: Reach) -> None:
    """Legs and their ids, whom it waits for, its deadline and its history; the JSON holds the payloads."""
    saga_id = await stranded(rig)
    await until_async(lambda: ask.found_saga(reach, saga_id), lambda found: found[1].saga.waits_for_cell == THERE)
    cells, reply = await ask.found_saga(reach, saga_id)
    console = Console(width=200, highlight=False)
    with console.capture() as captured:
        show.tell_saga(console, cells.name, reply.saga, reply.saga.start_time_ms + 90_500)
        show.tell_history(console, reply.history)
    text = captured.get()
    for said in ("settlement", HERE, f"{THERE}, which does not answer", "1 min 30 s ago", "(pivot)", "SAGA_STARTED"):
        assert said in text
    assert all(leg.leg_id in text for leg in reply.saga.legs)
    content = json.loads(json.dumps(show.saga_json(HERE, reply.saga)))
    assert (content["cell"], content["saga_id"], content["state"]) == (HERE, saga_id, "SAGA_STATE_RUNNING")
    assert show.event_json(reply.history[0])["payload"]["facts"]["currency"] == "USD"


async def test_a_saga_that_nobody_knows_is_told(reach: Reach) -> None:
    """And that one cell could not be asked."""
    with pytest.raises(ClientError, match=f"not all do: {THERE}"):
        await ask.found_saga(reach, "0198c0de-0000-7000-8000-000000000001")


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0 s"), (-5, "0 s"), (59_999, "59 s"), (60_000, "1 min"), (3_605_000, "1 h"), (183_600_000, "2 d 3 h")],
)
def test_spans_are_told_in_their_two_largest_units(milliseconds: int, text: str) -> None:
    """A unit of none is left out."""
    assert span_text(milliseconds) == text


def test_times_are_told_in_utc_to_the_millisecond() -> None:
    """As ISO 8601 has it, with the zone."""
    at = datetime(2026, 3, 1, 12, 30, 5, tzinfo=UTC)
    assert time_text(int(at.timestamp()) * 1_000 + 7) == "2026-03-01 12:30:05.007 UTC"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["list", "--state", "lost"], 2, "'lost'"),
        (["list", "--older-than", "soon"], 2, "as in 15m"),
        (["list", "--router", NOWHERE], 1, "no router answers at 127.0.0.1:1"),
        (["get", "12", "--router", NOWHERE], 1, "no router answers"),
        (["list", "--router", NOWHERE], 1, "or get in by cellbook --keys DIR"),
        (["list", "--router", "localhost"], 2, "'localhost': expected host:port"),
        (["list", "--router", "http://127.0.0.1:7400"], 2, "expected host:port"),
    ],
)
def test_what_is_wrong_is_told(arguments: list[str], code: int, told: str) -> None:
    """One line on stderr that names the value, and nothing on stdout."""
    result = RUN.invoke(app, ["saga", *arguments])
    assert (result.exit_code, result.stdout) == (code, "")
    assert told in result.stderr


def test_a_cell_that_is_not_listed_is_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--with` a cell that does not exist found no saga and exited with 0."""

    @asynccontextmanager
    async def two_cells(*_: object) -> AsyncIterator[Reach]:
        async with Client(NOWHERE) as client:
            yield Reach(client=client, cells=[], listed=[THERE, HERE])

    monkeypatch.setattr(command, "reached", two_cells)
    result = RUN.invoke(app, ["saga", "list", "--with", "nowhere"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"the router lists no cell 'nowhere', only {THERE}, {HERE}" in result.stderr


def test_failures_are_json_where_json_was_asked_for() -> None:
    """One object on stderr, with the exit code; the next command is asked anew."""
    result = RUN.invoke(app, ["saga", "list", "--router", NOWHERE, "--json"])
    said = json.loads(result.stderr)
    assert (result.exit_code, result.stdout, said["exit_code"]) == (1, "", 1)
    assert said["error"].startswith(f"no router answers at {NOWHERE}")
    assert RUN.invoke(app, ["saga", "list", "--router", NOWHERE]).stderr.startswith("cellbook:")
