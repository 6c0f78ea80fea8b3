"""The night, replayed: the link between two regions is cut with 47 settlements in flight, and nobody loses a cent."""

import asyncio
import json
from pathlib import Path

import pytest

from lab.chaos import netns
from lab.chaos.settlements import CAUGHT, DOOMED, LEGS, TOTAL
from tests.e2e.cellbook_command import begin, check_kept, processes_of, run, until_nothing_is_left

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(300)]

OBSTACLE = netns.obstacle()
REAL = pytest.param(
    "netns", 30, marks=pytest.mark.skipif(bool(OBSTACLE), reason=f"no network namespaces here: {OBSTACLE}")
)


@pytest.mark.parametrize(("link", "cut_seconds"), [REAL, ("proxy", 10)])
async def test_nobody_loses_a_cent_by_a_cut_cable(tmp_path: Path, link: str, cut_seconds: int) -> None:
    """44 of 47 complete and the 3 whose deadline passed are undone, soon after the link is back, none of it twice."""
    arguments = ("--link", link, "--cut-seconds", str(cut_seconds), "--json", "--data", tmp_path / "kept")
    ended = await run("chaos", "cable-cut", *arguments, temporary=tmp_path)
    assert ended.code == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert (told["ok"], told["link"]) == (True, link)
    assert told["cut_seconds"] >= cut_seconds
    assert told["in_flight"] == sum(told["in_flight_by_leg"].values()) == TOTAL == 47
    assert told["in_flight_by_leg"] == {**CAUGHT, LEGS[0]: CAUGHT[LEGS[0]] + DOOMED}
    assert sum(told["stranded_by_leg"].values()) == 47
    assert (told["completed"], told["compensated"]) == (44, 3)
    assert told["double_effects"] == 0
    assert told["conservation_ok"] is True
    assert told["looks"] >= cut_seconds // 2
    assert told["in_transit_most_minor"] > 0
    assert (told["escrow_minor"], told["clearing_in_transit_minor"]) == (0, 0)
    assert 0 <= told["recovery_s"] <= 30
    assert told["local_bid_rate_ratio"] >= 0.9
    assert told["remote_bids_across"]["IN_PROGRESS"] > 0
    assert all(check["held"] for check in told["checks"])
    assert "CUT" in ended.stderr
    assert "MENDED" in ended.stderr
    assert processes_of(tmp_path) == []
    await check_kept(tmp_path / "kept")


@pytest.mark.skipif(bool(OBSTACLE), reason=f"no network namespaces here: {OBSTACLE}")
async def test_a_night_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    """After a kill -9 of the command all processes end, and with them their networks; this one was never touched."""
    before = interfaces()
    running = await begin("chaos", "cable-cut", "--link", "netns", temporary=tmp_path)
    async with asyncio.timeout(60):
        while "are up" not in await running.read_line():
            pass
    assert networks(tmp_path) == 4
    assert interfaces() == before
    running.process.kill()
    await running.end()
    await until_nothing_is_left(tmp_path)
    assert interfaces() == before


def interfaces() -> str:
    """Of the machine's own network."""
    return Path("/proc/net/dev").read_text().translate(str.maketrans("", "", "0123456789 "))


def networks(folder: Path) -> int:
    """How many different networks the processes that name `folder` are in."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder) in (entry / "cmdline").read_text(errors="replace"):
                found.add((entry / "ns" / "net").readlink())
        except OSError:
            continue
    return len(found)
