"""`make bench-peers`: the same work in Cellbook and in other ledgers, in turns, beside what each guarantees.

    python -m tests.bench.peers [--quick] [--rounds N] [--json]

TIGERBEETLE=/path/to/tigerbeetle includes TigerBeetle.
"""

import argparse
import json
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import uvloop
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from server.__main__ import collect_garbage_seldom
from server.cli.report import stage
from server.shell.observability.logging import configure_logging
from tests.bench.__main__ import FAILURES, WIDTH
from tests.bench.cluster import ground, side
from tests.bench.cpu import cpu_s
from tests.bench.peers.guarantees import CELLBOOK, EVENTSOURCING, GUARANTEES, PEERS, PLPGSQL, TIGERBEETLE
from tests.bench.peers.programs import PYTHON, CellbookPeer, Mode, Peer, PeerFailed, eventsourced, plpgsql, tiger
from tests.bench.peers.work import Size
from tests.bench.processes import generator
from tests.bench.report import number, rounded
from tests.bench.scale import FULL, QUICK, Scale

SIZE = Size(users=2_000, auctions=200)
MODES = {
    CELLBOOK: (
        Mode(name="one by one, 64 in flight", clients=64),
        Mode(name="batches of 100, 8 in flight", clients=8, items=100),
    ),
    PLPGSQL: (
        Mode(name="a transaction each, 8 connections", clients=8),
        Mode(name="a transaction each, 16 connections", clients=16),
        Mode(name="batches of 100, 8 connections", clients=8, items=100),
    ),
    EVENTSOURCING: (
        Mode(name="a transaction each, 8 threads", clients=8),
        Mode(name="batches of 100, 4 threads", clients=4, items=100),
    ),
    TIGERBEETLE: (
        Mode(name="one by one, 64 threads", clients=64),
        Mode(name="batches of 100, 8 threads", clients=8, items=100),
    ),
}
NO_TIGERBEETLE = "left out: TIGERBEETLE= names no server program; PyPI has only the client"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One mode to use one peer, and what each round measured."""

    peer: str
    program: Peer
    mode: Mode
    per_s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    async def measure(self, scale: Scale) -> None:
        await self.program.bids(self.mode, scale.warm_up_s)
        cpu_before_s, began_s = self.spent_s(), time.monotonic()
        placed = await self.program.bids(self.mode, scale.seconds)
        self.per_s.append(placed / (time.monotonic() - began_s))
        self.cpu_us.append((self.spent_s() - cpu_before_s) / placed * 1e6)

    def spent_s(self) -> float:
        return sum(map(cpu_s, self.program.pids))

    def as_json(self) -> dict[str, Any]:
        return {
            "peer": self.peer,
            "mode": self.mode.name,
            "bids_per_s": rounded(median(self.per_s)),
            "cpu_us_per_bid": rounded(median(self.cpu_us)),
            "rounds": rounded(self.per_s),
            "cpu_rounds": rounded(self.cpu_us),
        }


async def run(scale: Scale, console: Console, binary: str | None) -> list[Row]:
    if not PYTHON.exists():
        raise PeerFailed(f"{PYTHON} is not there: `make bench-peers` installs the peers' packages")
    if binary and not shutil.which(binary):
        raise PeerFailed(f"TIGERBEETLE={binary} is no program")
    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(ground())
        ours = await stack.enter_async_context(side(place, "peers", console, users=SIZE.users, auctions=SIZE.auctions))
        with stage("the peers' accounts and auctions", 1, console):
            programs: dict[str, Peer] = {
                CELLBOOK: CellbookPeer(side=ours, generator=await stack.enter_async_context(generator())),
                PLPGSQL: await stack.enter_async_context(plpgsql(ours.postgres, SIZE)),
                EVENTSOURCING: await stack.enter_async_context(eventsourced(ours.postgres, SIZE)),
            }
            if binary:
                programs[TIGERBEETLE] = await stack.enter_async_context(tiger(binary, place.folder, SIZE))
        rows = [
            Row(peer=peer, program=program, mode=mode) for peer, program in programs.items() for mode in MODES[peer]
        ]
        with stage("rounds", scale.rounds * len(rows), console) as rounds:
            for _ in range(scale.rounds):
                for row in rows:
                    await row.measure(scale)
                    rounds.advance()
        for peer, program in programs.items():
            with stage(f"checking {peer}", 1, console):
                await program.check()
    return rows


def rates(rows: Sequence[Row], *, tigerbeetle: bool) -> Table:
    """All processes of a peer count: its own, its database's, its client's."""
    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("peer", "how", "bids/s", "CPU us a bid"):
        shown.add_column(heading, justify="right" if heading in {"bids/s", "CPU us a bid"} else "left")
    for row in rows:
        shown.add_row(row.peer, row.mode.name, number(median(row.per_s)), number(median(row.cpu_us)))
    if not tigerbeetle:
        shown.add_row(TIGERBEETLE, NO_TIGERBEETLE, "", "")
    return shown


def guarantees() -> Table:
    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("guarantee", *PEERS):
        shown.add_column(heading)
    for guarantee, answers in GUARANTEES.items():
        shown.add_row(guarantee, *answers)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers", description="Cellbook beside other ledgers.")
    parser.add_argument("--quick", dest="scale", action="store_const", const=QUICK, default=FULL, help="a minute")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each measurement takes its turn")
    parser.add_argument("--json", action="store_true", help="write JSON")
    chosen = parser.parse_args()
    configure_logging("warning")
    collect_garbage_seldom()
    console = Console(highlight=False, stderr=chosen.json)
    if not console.is_terminal:
        console.width = max(console.width, WIDTH)
    binary = os.environ.get("TIGERBEETLE")
    try:
        scale = replace(chosen.scale, rounds=chosen.rounds or chosen.scale.rounds)
        rows = uvloop.run(run(scale, console, binary))
    except (*FAILURES, PeerFailed) as failure:
        console.print(f"failed: {failure}", style="red", markup=False)
        raise SystemExit(1) from None
    load = os.getloadavg()
    if chosen.json:
        said = {"load": load, "rates": [row.as_json() for row in rows], "peers": PEERS, "guarantees": GUARANTEES}
        print(json.dumps(said, indent=2))
        return
    console.print(rates(rows, tigerbeetle=bool(binary)), guarantees())
    console.print(f"The machine's load, of the last 1, 5 and 15 minutes: {', '.join(f'{each:.1f}' for each in load)}")


if __name__ == "__main__":
    main()
