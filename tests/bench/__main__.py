"""`make bench`: every figure beside its yardstick, in one run on one machine.

    python -m tests.bench [--quick | --soak] [--only NAME]... [--against CHECKOUT]

Whether a figure is reached decides nothing here; the exit code is 0 unless something failed.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import uvloop
from rich.console import Console

from lab.member import ClusterError
from server.__main__ import collect_garbage_seldom
from server.cli.client import ClientError
from server.shell.observability.logging import configure_logging
from server.shell.postgres.host import PostgresFailed
from tests.bench import books, cpu, draining, engines, growth, moves, recovery, settlements, ways, writes
from tests.bench.checks import CheckFailed
from tests.bench.cluster import ground
from tests.bench.load import LoadFailed
from tests.bench.measure import Bench
from tests.bench.pgbench import PgbenchFailed
from tests.bench.processes import generator
from tests.bench.report import TARGETS, Figure, save, table
from tests.bench.scale import FULL, QUICK, SOAK, Scale

RESULTS = Path("bench.json")
# Of the table, where it does not go to a terminal.
WIDTH = 140
FAILURES = (LoadFailed, CheckFailed, PgbenchFailed, PostgresFailed, ClusterError, ClientError)
GROUPS = (
    writes.measured,
    growth.measured,
    settlements.measured,
    engines.measured,
    recovery.measured,
    books.measured,
    ways.measured,
    moves.measured,
    draining.measured,
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measures Cellbook beside yardsticks.")
    size = parser.add_mutually_exclusive_group()
    for scale in (QUICK, SOAK):
        size.add_argument(f"--{scale.name}", dest="scale", action="store_const", const=scale, help=scale.meaning)
    parser.add_argument("--only", action="append", choices=tuple(TARGETS), metavar="NAME", help="this figure alone")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each measurement takes its turn")
    parser.add_argument(
        "--against", type=Path, metavar="CHECKOUT", help=f"{cpu.NAME} alone, in turns with a cell of that checkout"
    )
    chosen = parser.parse_args()
    configure_logging("warning")
    # As a cell's process does: cells are founded in this one.
    collect_garbage_seldom()
    console = Console(highlight=False)
    if not console.is_terminal:
        # A file has no edge.
        console.width = max(console.width, WIDTH)
    wanted = frozenset([cpu.NAME] if chosen.against else chosen.only or TARGETS)
    if settlements.NAME in wanted:
        wanted |= {settlements.YARDSTICK}
    try:
        scale = chosen.scale or FULL
        scale = replace(scale, rounds=chosen.rounds or scale.rounds)
        figures = uvloop.run(run(scale, wanted, chosen.against and chosen.against.resolve(), console))
    except FAILURES as failure:
        console.print(f"failed: {failure}", style="red", markup=False)
        raise SystemExit(1) from None
    save(RESULTS, figures)
    console.print(table(figures))


async def run(scale: Scale, wanted: frozenset[str], against: Path | None, console: Console) -> list[Figure]:
    async with ground() as place, generator() as loader:
        bench = Bench(
            scale=scale,
            wanted=wanted,
            against=against,
            ground=place,
            generator=loader,
            console=console,
        )
        for group in GROUPS:
            async for figure in group(bench):
                bench.figures.append(figure)
        return bench.figures


if __name__ == "__main__":
    main()
