"""The main job, end to end: router, three cells, real PostgreSQL, real gRPC."""

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from tests.e2e.cellbook_command import Running, begin, check_kept, processes_of, run, until_nothing_is_left
from tests.local_cells import until_async

pytestmark = pytest.mark.e2e

CELLS = ("us-east", "eu-west", "ap-tokyo")
# Of a settlement that goes well, in the order in which they happen.
MILESTONES = (
    "AUCTION_CLOSED",
    "SAGA_STARTED",
    "HOLD_PINNED",
    "ESCROW_SENT",
    "ESCROW_FUNDED",
    "ESCROW_PAID_OUT",
    "PENDING_CREDITED",
    "OWNERSHIP_TRANSFERRED",
    "PENDING_SETTLED",
    "SAGA_COMPLETED",
)


@pytest.mark.parametrize("secure", [(), ("--secure",)], ids=["development", "secure"])
async def test_the_demo_settles_every_win_and_conserves_every_cent(tmp_path: Path, secure: tuple[str, ...]) -> None:
    """Every check holds, every win is settled, nothing is in transit, and stdout is one JSON object."""
    ended = await run("demo", "--json", "--data", tmp_path / "kept", *secure, temporary=tmp_path)
    assert ended.code == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["ok"] is True
    assert told["conservation_ok"] is True
    assert told["clearing_in_transit_minor"] == 0
    assert told["auctions"] == 27
    assert told["bids_accepted"] > 100
    assert told["bids_refused"] > 20
    assert told["settlements_completed"] == 25
    assert told["settlements_compensated"] == 0
    assert 0 < told["elapsed_s"] < 60
    assert all(check["held"] for check in told["checks"])
    assert {result["state"] for result in told["results"]} == {"SETTLED", "CANCELLED", "UNSOLD"}
    assert [result["currency"] for result in told["results"]].count("JPY") == 1
    assert {result["name"].split("/")[1] for result in told["results"]} == set(CELLS)
    assert processes_of(tmp_path) == []
    await check_kept(tmp_path / "kept")


async def test_the_report_shows_a_settlement_event_by_event(tmp_path: Path) -> None:
    """For people: who won what, one trace over three cells, balances, money, checks; no colours in a pipe."""
    ended = await run("demo", "--data", tmp_path / "kept", temporary=tmp_path)
    assert ended.code == 0, ended.stderr
    for said in (
        "Who won what",
        "One settlement, event by event",
        "before",
        "after",
        "conserved",
        "BID_TOO_LOW",
    ):
        assert said in ended.stdout
    trace = ended.stdout.split("One settlement, event by event")[1].split("Winner and seller")[0]
    places = [trace.find(event_type) for event_type in MILESTONES]
    assert -1 not in places
    assert places == sorted(places)
    assert all(f"{cell}/" in trace for cell in CELLS)
    assert "\x1b" not in ended.stdout
    assert processes_of(tmp_path) == []
    assert (tmp_path / "kept" / "us-east").is_dir()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("moment", ["starting", "playing"])
async def test_a_signal_stops_everything(tmp_path: Path, number: signal.Signals, code: int, moment: str) -> None:
    """Whenever it comes, nothing runs on afterwards and the temporary folder is gone."""
    running = await begun(tmp_path, moment)
    running.process.send_signal(number)
    ended = await asyncio.wait_for(running.end(), 60)
    assert ended.code == code
    assert ended.stdout == ""
    assert processes_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


async def test_a_cell_that_dies_ends_the_demo(tmp_path: Path) -> None:
    """Killed hard in the middle of it, a cell is named at once, and nothing is left, nor its PostgreSQL."""
    running = await begun(tmp_path, "playing")
    (ready,) = tmp_path.glob("cellbook-*/eu-west/ready.json")
    os.kill(json.loads(ready.read_text())["pid"], signal.SIGKILL)
    ended = await asyncio.wait_for(running.end(), 60)
    assert (ended.code, ended.stdout) == (1, "")
    assert "eu-west has ended unasked, with signal SIGKILL" in ended.stderr
    assert processes_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


async def test_a_demo_that_is_killed_leaves_nothing_either(tmp_path: Path) -> None:
    """After a kill -9 of the command itself, everything that it had started ends, and its folder goes."""
    running = await begun(tmp_path, "playing")
    running.process.kill()
    await running.end()
    await until_nothing_is_left(tmp_path)


async def begun(folder: Path, moment: str) -> Running:
    """A demo that has come so far."""
    running = await begin("demo", temporary=folder)
    await until_async(lambda: asyncio.sleep(0, _reached(folder, moment)), timeout_s=60)
    return running


def _reached(folder: Path, moment: str) -> bool:
    """Starting: one PostgreSQL is up. Playing: all four processes are ready."""
    if moment == "starting":
        return any(folder.glob("cellbook-*/*/postgres/postmaster.pid"))
    return len(list(folder.glob("cellbook-*/*/ready.json"))) == 1 + len(CELLS)
