"""Recorded bids, played over three cells, come out as an ascending auction must."""

import csv
import json
import os
from pathlib import Path

import pytest

from tests.e2e.cellbook_command import check_kept, run

pytestmark = pytest.mark.e2e

SMALL = """auction,item,duration_days,open_minor,time_s,bidder,bid_minor
7,bell,3,100,1.0,1,100
7,bell,3,100,2.0,2,100
7,bell,3,100,3.0,2,150
7,bell,3,100,4.0,1,149
8,clock,3,500,1.0,3,499
7,bell,3,100,5.0,2,151
"""


def real_bids() -> Path:
    """The folder of real bids: named by CELLBOOK_DATA, or beside the checkout."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("CELLBOOK_DATA") or beside)
    if not (folder / "bids.csv").exists():
        pytest.skip(f"no bids.csv in {folder}: set CELLBOOK_DATA to the folder that holds it and expected.csv")
    return folder


async def test_a_small_file_is_played_bid_by_bid(tmp_path: Path) -> None:
    """Equal and lower bids are refused, a bidder may raise their own, what nobody opens nobody wins."""
    file = tmp_path / "bids.csv"
    file.write_text(SMALL)
    ended = await run("replay", file, "--json", "--data", tmp_path / "kept", temporary=tmp_path)
    assert ended.code == 0, ended.stderr
    told = json.loads(ended.stdout)
    shown = ("auction", "accepted", "refused", "winner", "price_minor", "state")
    assert [[result[name] for name in shown] for result in told["results"]] == [
        ["7", 3, 2, 2, 151, "SETTLED"],
        ["8", 0, 1, None, 0, "UNSOLD"],
    ]
    assert (told["settlements_completed"], told["clearing_in_transit_minor"]) == (1, 0)
    await check_kept(tmp_path / "kept")


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_real_bids_come_out_as_expected(tmp_path: Path) -> None:
    """All auctions of the file: accepted, refused, winner and price as worked out apart from our code."""
    folder = real_bids()
    ended = await run("replay", folder / "bids.csv", "--json", "--data", tmp_path / "kept", temporary=tmp_path)
    assert ended.code == 0, ended.stderr
    told = json.loads(ended.stdout)
    with (folder / "expected.csv").open(newline="") as file:
        wanted = list(csv.DictReader(file))
    columns = ("auction", "accepted", "refused", "winner", "price_minor")
    assert [{name: str(result[name]) for name in columns} for result in told["results"]] == wanted
    assert told["settlements_completed"] == len(wanted)
    await check_kept(tmp_path / "kept")
    assert told["settlements_compensated"] == 0
    assert told["conservation_ok"] is True
    assert told["clearing_in_transit_minor"] == 0
