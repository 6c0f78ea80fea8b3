"""Faults of every kind, one after the other, on real processes under load, and how long each one's effect outlives it.

python -m tests.faults.soak [--minutes 30] [--seed 1] [--only TEXT] [--write]

A fault's effect has ended once every kind of work that there is, begun after the fault's end, is done: deposits into
each cell, a payment each way between any two, a registration. What was under way when it struck has ended before.
Afterwards all invariants are checked in the databases. Exit code 1: a bound was missed, or a process ended by itself.
"""

import argparse
import asyncio
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.soak_faults import Faults
from tests.faults.soak_rig import SoakCluster, soak_cluster
from tests.faults.travellers import Travellers

PROMISED_S = 10.0
GIVE_UP_S = 90.0
POLL_S = 0.05
# Between two faults.
REST_S = 1.5
PAGE = Path(__file__).resolve().parents[2] / "docs" / "faults.md"
BEGIN, END = "<!-- soak -->", "<!-- /soak -->"


@dataclass(slots=True)
class Report:
    # By fault: seconds from its end to that of its effect.
    took_s: dict[str, list[float]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def table(self) -> str:
        head = ["| fault | times | median | longest |", "|---|---|---|---|"]
        rows = [
            f"| {name} | {len(took)} | {statistics.median(took):.1f} s | {max(took):.1f} s |"
            for name, took in self.took_s.items()
            if took
        ]
        return "\n".join([*head, *rows])


@dataclass(slots=True)
class Soak:
    cluster: SoakCluster
    travellers: Travellers
    report: Report

    async def strike(self, name: str, faults: Faults) -> None:
        fault, hold_s = faults.all()[name]
        async with fault():
            await asyncio.sleep(hold_s)
            # What is begun from here on meets no fault, unless its end takes a while itself, as a start does.
            ended_s = time.monotonic()
        took_s = await self._recovered(name, ended_s)
        self.report.took_s.setdefault(name, []).append(took_s)
        print(f"{time.strftime('%H:%M:%S', time.gmtime())} {name}: {took_s:.1f} s", flush=True)
        if took_s > PROMISED_S:
            self.report.problems.append(f"{name}: {took_s:.1f} s")
        self._look_for_ended(name)

    async def _recovered(self, name: str, since_s: float) -> float:
        while missing := self.travellers.missing(since_s):
            if time.monotonic() - since_s > GIVE_UP_S:
                self.report.problems.append(f"{name}: still waiting for {', '.join(missing)}")
                break
            self._look_for_ended(name)
            await asyncio.sleep(POLL_S)
        return time.monotonic() - since_s

    def _look_for_ended(self, name: str) -> None:
        """A process that has ended unasked is started again, as a supervisor does, and told of."""
        for member in self.cluster.members:
            if (code := member.ended()) is not None:
                line = member.log.read_text(errors="replace").splitlines()[-1:]
                self.report.problems.append(f"{name}: {member.name} has ended by itself with {code}: {line}")
                print(self.report.problems[-1], flush=True)
                member.start()


async def soak(minutes: float, seed: int, only: str, folder: Path) -> Report:
    report, chance = Report(), random.Random(seed)
    async with soak_cluster(folder) as cluster:
        travellers = Travellers(cluster.town.market)
        await travellers.start()
        try:
            running = Soak(cluster, travellers, report)
            faults = Faults(cluster, chance)
            until_s = time.monotonic() + 60 * minutes
            while time.monotonic() < until_s:
                names = [name for name in faults.all() if only in name]
                for name in chance.sample(names, len(names)):
                    if time.monotonic() < until_s or name not in report.took_s:
                        await running.strike(name, faults)
                        await asyncio.sleep(REST_S)
        finally:
            await travellers.stop()
        await cluster.town.market.wait_until_quiet()
        await cluster.town.check()
        print(f"refused: {dict(travellers.refused)}; done: {sum(each.done for each in travellers.all)}", flush=True)
    return report


def written(report: Report, minutes: float) -> None:
    """Puts the table into its place on the page."""
    conditions = (
        f"{minutes:g} minutes on {os.cpu_count()} processors, load average {os.getloadavg()[1]:.0f} "
        f"(5 minutes) at the end, on {time.strftime('%Y-%m-%d', time.gmtime())}."
    )
    text = PAGE.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{conditions}\n\n{report.table()}\n\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="faults whose names contain this")
    parser.add_argument("--write", action="store_true", help="put the table into docs/faults.md")
    parser.add_argument("--keep", action="store_true", help="keep the logs of the processes")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="cellbook-soak-"))
    try:
        report = asyncio.run(soak(asked.minutes, asked.seed, asked.only, folder / "data"))
    finally:
        if asked.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(report.table())
    if asked.write:
        written(report, asked.minutes)
    for problem in report.problems:
        print(f"problem: {problem}", file=sys.stderr)
    sys.exit(bool(report.problems))


if __name__ == "__main__":
    main()
