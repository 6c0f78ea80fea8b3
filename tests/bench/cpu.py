"""CPU time a bid, of each process: what other work on the machine blurs least.

Beside pgbench's TPC-B, or beside another checkout of this repository, whose cell runs in turns with ours.
"""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from server.shell.postgres.embedded import EmbeddedPostgres
from tests.bench import pgbench
from tests.bench.cluster import Side
from tests.bench.elsewhere import checked_side
from tests.bench.load import Plan
from tests.bench.measure import Bench
from tests.bench.report import Figure, compared, number

NAME = "cpu_per_bid"
ALL, CELL, POSTGRES, GENERATOR = "all", "cell", "postgres", "generator"
PROC = Path("/proc")
# In /proc/PID/stat, after the name: the parent; user and system time, its own and of children that were waited for.
_PARENT, _TIMES = 1, slice(11, 15)
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Rounds for each of other figures: short ones, as the machine's speed changes from second to second.
TURNS = 3
# Microseconds a bid or transaction, of each part.
Costs = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How bids are sent."""

    name: str
    # 0: one by one.
    items: int
    in_flight: int
    turn: int
    # Of Scale.cpu_bids.
    times: int = 1


async def figures(bench: Bench, ours: Side, ways: tuple[Way, ...]) -> AsyncIterator[Figure]:
    if not (PROC / "self/stat").exists():
        bench.say(f"{NAME} is left out: this system has no /proc")
        return
    async with AsyncExitStack() as stack:
        if bench.against is None:
            yardstick, other = "TPC-B", None
            await pgbench.prepare(ours.postgres)
        else:
            yardstick = bench.against.name
            other = await stack.enter_async_context(checked_side(bench, bench.against))
        for way in ways:
            values, yardsticks = await in_turns(bench, way, ours, other)
            for part in values[0]:
                rounds = [each[part] for each in values], [each[part] for each in yardsticks]
                yield compared(f"{NAME}/{way.name}/{part}", "us", rounds[0], yardstick, rounds[1])


async def in_turns(bench: Bench, way: Way, ours: Side, other: Side | None) -> tuple[list[Costs], list[Costs]]:
    values: list[Costs] = []
    yardsticks: list[Costs] = []
    rounds = TURNS * bench.scale.rounds
    with bench.stage(f"{NAME}/{way.name}", rounds) as stage:
        for side in filter(None, (ours, other)):
            # What it reads once is in memory from here on.
            await bid_us(bench, way, side)
        for round_ in range(rounds):
            for ours_now in (False, True) if round_ % 2 else (True, False):
                if ours_now:
                    values.append(await bid_us(bench, way, ours))
                else:
                    yardsticks.append(await (bid_us(bench, way, other) if other else tpcb_us(bench, ours.postgres)))
            bench.say(f"{NAME}/{way.name} {round_ + 1}: {told(values[-1])}; beside {told(yardsticks[-1])}")
            stage.advance()
    return values, yardsticks


async def bid_us(bench: Bench, way: Way, side: Side) -> Costs:
    pids = {CELL: side.server.pid, POSTGRES: side.postgres.pid, GENERATOR: bench.generator.process.pid}
    before = {part: cpu_s(pid) for part, pid in pids.items()}
    plan = Plan(
        address=side.server.address,
        bids=side.dataset.spread(way.items, turn=way.turn),
        in_flight=way.in_flight,
        bids_each=way.times * bench.scale.cpu_bids / way.in_flight,
    )
    placed = (await bench.generator.run(plan)).placed
    side.dataset.bids += placed
    return with_sum({part: (cpu_s(pid) - before[part]) / placed * 1e6 for part, pid in pids.items()})


async def tpcb_us(bench: Bench, postgres: EmbeddedPostgres) -> Costs:
    """Of 8 and of 16 clients together. pgbench is a child of this process, which waits for nothing else meanwhile."""
    postgres_s, children_s = cpu_s(postgres.pid), waited_for_s()
    each = bench.scale.cpu_bids // max(pgbench.CLIENTS)
    done = sum([await pgbench.run_through(postgres, clients, each) for clients in pgbench.CLIENTS])
    spent = {CELL: 0.0, POSTGRES: cpu_s(postgres.pid) - postgres_s, GENERATOR: waited_for_s() - children_s}
    return with_sum({part: seconds / done * 1e6 for part, seconds in spent.items()})


def with_sum(costs: Costs) -> Costs:
    return {ALL: sum(costs.values()), **costs}


def told(costs: Costs) -> str:
    return ", ".join(f"{part} {number(cost)}" for part, cost in costs.items()) + " us"


def cpu_s(pid: int | None) -> float:
    """Of a process and its descendants. What a child took moves to its parent, which waits for it, when it ends."""
    children: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for path in PROC.glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        child = int(path.parent.name)
        children.setdefault(int(fields[_PARENT]), []).append(child)
        ticks[child] = sum(map(int, fields[_TIMES]))
    if pid not in ticks:
        raise ProcessLookupError(f"process {pid} has ended")
    family = [pid]
    for member in family:
        family += children.get(member, [])
    return sum(ticks[member] for member in family) / _TICKS_PER_S


def waited_for_s() -> float:
    """Of this process's children that have ended."""
    times = os.times()
    return times.children_user + times.children_system
