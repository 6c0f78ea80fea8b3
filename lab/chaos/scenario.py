"""The scenario: settlements in flight, the cable cut, bids continuing, the cable restored, everything settled."""

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from cellbook.v1 import event_pb2, saga_pb2
from lab.books import Books, clearing_legs, money_rows, over_all
from lab.chaos.bids import BIDS_PER_S, LocalLoad, RemoteBids
from lab.chaos.links import FAR, NEAR, Link
from lab.chaos.settlements import CURRENCY, DOOMED, LEGS, TOTAL, Fleet, spread_text
from lab.market import Market
from server.cli.screen import literal
from server.cli.texts import amount_text

OBSERVED_EVERY_S = 1.0
# Bids before the cut, for comparison.
BASELINE_S = 6.0
# The time that a settlement may take beyond the cut if it must not be given up.
TIMEOUT_MARGIN_S = 3_600
# The deadlines pass in the middle of the cut.
DOOMED_SHARE = 0.5
AFTER_DEADLINE_S = 1.0
REMOTE_BIDS_ROUNDS = 12
REMOTE_BIDS_EVERY_LEAST_S = 1.5
RECOVERY_GIVEN_UP_S = 120.0
# During the cut, which is long; the cells have bids to answer meanwhile.
PRESENT_S = 1.0
POLL_S = 0.1
# The timeline gets at least this many lines during a cut.
LINES_DURING_CUT = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    # Movements that have left one cell and not reached the other, and their sum over all currencies.
    movements: int
    in_transit_minor: int
    wrong: tuple[str, ...]


@dataclass(slots=True)
class Bookkeeper:
    """The balances of all cells every second, each time as of one consistent moment.

    The cells are read concurrently, so one cell's events may have causes that have not yet been read from another. Each
    event's vector clock names what it may depend on: the event is applied only after all of that (causal delivery,
    Birman, Schiper and Stephenson, 1991). The applied events form a consistent cut, and money must be conserved in it.
    """

    market: Market
    logs: dict[str, list[event_pb2.Event]] = field(init=False)
    books: dict[str, Books] = field(init=False)
    observations: list[Observation] = field(default_factory=list)
    # Events that were read before the events they depend on.
    _early: dict[str, deque[event_pb2.Event]] = field(init=False)
    _moved: dict[tuple[str, str, str], int] = field(default_factory=lambda: defaultdict(int))

    def __post_init__(self) -> None:
        self.logs = {cell: [] for cell in self.market.cells}
        self.books = {cell: Books(cell=cell) for cell in self.market.cells}
        self._early = {cell: deque() for cell in self.market.cells}

    async def watch(self) -> None:
        """Checks every second until cancelled."""
        while True:
            await self.observe()
            await asyncio.sleep(OBSERVED_EVERY_S)

    async def observe(self) -> Observation:
        await asyncio.gather(*(self._read(cell) for cell in self.logs))
        while any(self._take_in(cell) for cell in self.logs):
            pass
        observation = self._added_up()
        self.observations.append(observation)
        return observation

    @property
    def wrong(self) -> list[str]:
        return [
            f"look {number}: {line}"
            for number, observation in enumerate(self.observations, start=1)
            for line in observation.wrong
        ]

    async def _read(self, cell: str) -> None:
        position = len(self.logs[cell]) + len(self._early[cell])
        self._early[cell].extend(await self.market.log(cell, position + 1))

    def _take_in(self, cell: str) -> bool:
        """Applies events whose causes have all been applied; returns whether there were any."""
        early, taken = self._early[cell], 0
        while early and self._is_due(early[0]):
            event = early.popleft()
            self.logs[cell].append(event)
            self.books[cell].add(event)
            for leg, amount_minor in clearing_legs(event):
                self._moved[leg] += amount_minor
                if not self._moved[leg]:
                    del self._moved[leg]
            taken += 1
        return taken > 0

    def _is_due(self, event: event_pb2.Event) -> bool:
        known = event.vector_clock.items()
        return all(len(self.logs[cell]) >= position for cell, position in known if cell != event.cell)

    def _added_up(self) -> Observation:
        rows = money_rows(list(self.books.values()))
        wrong = [f"{row.cell}: {row.inside} {row.currency} there" for row in rows if not row.held]
        wrong += [f"{-left} of {leg[0]} came in that was never sent" for leg, left in self._moved.items() if left < 0]
        wrong += [line for own in self.books.values() for line in own.overdrawn]
        for row in over_all(rows):
            moving = sum(left for leg, left in self._moved.items() if leg[2] == row.currency)
            there = row.users + row.escrow + row.fees + row.transit + moving
            if row.deposited - row.withdrawn != there:
                wrong.append(f"all cells: {row.deposited - row.withdrawn} in, {there} {row.currency} there")
        moving = sum(abs(left) for left in self._moved.values())
        return Observation(movements=len(self._moved), in_transit_minor=moving, wrong=tuple(wrong))


class Timeline:
    """The events, one line each, with the time since the start; on a terminal, with the current state below."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started_s = time.monotonic()

    def say(self, text: str, *, style: str = "") -> None:
        said = f"[{style}]{literal(text)}[/{style}]" if style else literal(text)
        self._console.print(f"[dim]{self._now()}[/dim]  {said}", soft_wrap=True)

    @contextmanager
    def now(self) -> Iterator[Callable[[str], None]]:
        """For frequently changing text: shown in place on a terminal, and left out elsewhere."""
        if not self._console.is_terminal:
            yield lambda _: None
            return
        with self._console.status("") as status:
            yield lambda text: status.update(f"{self._now()}  {literal(text)}")

    def _now(self) -> str:
        minutes, seconds = divmod(time.monotonic() - self._started_s, 60)
        return f"{minutes:02.0f}:{seconds:04.1f}"


@dataclass(slots=True, kw_only=True)
class Scenario:
    """Everything that happened; times are monotonic."""

    cut_seconds: int
    fleet: Fleet
    load: LocalLoad
    remote: RemoteBids
    keeper: Bookkeeper
    # The number of settlements at each leg when the cable was cut, and when it was restored.
    spread: Counter[str] = field(default_factory=Counter)
    stranded: Counter[str] = field(default_factory=Counter)
    # Settlements whose deadline had passed by then.
    turned_back: set[str] = field(default_factory=set)
    loaded_s: float = 0.0
    cut_s: float = 0.0
    mended_s: float = 0.0
    recovered_s: float = 0.0
    # Sagas still under way when the wait for them was given up.
    left: list[saga_pb2.Saga] = field(default_factory=list)

    @property
    def recovery_s(self) -> float:
        return self.recovered_s - self.mended_s


async def play(market: Market, link: Link, holds: Sequence[Path], cut_seconds: int, timeline: Timeline) -> Scenario:
    """`holds`: the files of legs before which the cells at the ends of the link hold sagas."""
    fleet, load, remote, keeper = Fleet(market, holds), LocalLoad(market), RemoteBids(market), Bookkeeper(market)
    scenario = Scenario(cut_seconds=cut_seconds, fleet=fleet, load=load, remote=remote, keeper=keeper)
    timeout_ms = (cut_seconds + TIMEOUT_MARGIN_S) * 1_000
    await fleet.open(timeout_ms, doomed_timeout_ms=int(cut_seconds * DOOMED_SHARE * 1_000))
    await load.open()
    await remote.open()
    timeline.say(f"{TOTAL} auctions that need the link, each with its winning bid; none is closed yet")
    async with _watched(keeper):
        for leg in reversed(LEGS):
            await fleet.hold(leg)
        spread = await fleet.in_flight()
        timeline.say(f"{spread.total()} closed, each settlement held at a leg of its own: {spread_text(spread)}")
        async with load.running():
            scenario.loaded_s = time.monotonic()
            timeline.say(f"local bids begin: {BIDS_PER_S} a second in every cell, whatever happens")
            await asyncio.sleep(BASELINE_S)
            await _cut(scenario, link, timeline)
            await _during(scenario, timeline)
            await _mend(scenario, market, link, timeline)
    await remote.answered()
    await remote.ended()
    await market.wait_until_quiet()
    observation = await keeper.observe()
    timeline.say(f"last look of {len(keeper.observations)}: {_observation_text(observation)}")
    return scenario


@asynccontextmanager
async def _watched(keeper: Bookkeeper) -> AsyncIterator[None]:
    watching = asyncio.create_task(keeper.watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait([watching])
    if not watching.cancelled():
        watching.result()


async def _cut(scenario: Scenario, link: Link, timeline: Timeline) -> None:
    """Closes the doomed auctions at the last moment, so that their deadlines pass during the cut, not before."""
    await scenario.fleet.close_doomed()
    timeline.say(f"{DOOMED} more closed: their deadline is {scenario.cut_seconds * DOOMED_SHARE:.0f} s away")
    scenario.remote.bid_everywhere()
    await link.cut()
    scenario.cut_s = time.monotonic()
    timeline.say(f"CUT: nothing passes between {NEAR} and {FAR} any more ({link.cut_by})", style="bold red")
    scenario.spread = await scenario.fleet.in_flight()
    timeline.say(f"{scenario.spread.total()} settlements in flight, at: {spread_text(scenario.spread)}")
    scenario.fleet.let_go()


async def _during(scenario: Scenario, timeline: Timeline) -> None:
    """Waits until the cut is over and the deadlines of the doomed have passed."""
    every_s = max(REMOTE_BIDS_EVERY_LEAST_S, scenario.cut_seconds / REMOTE_BIDS_ROUNDS)
    line_every_s = max(PRESENT_S, scenario.cut_seconds / LINES_DURING_CUT)
    end_s = scenario.cut_s + scenario.cut_seconds
    next_bids_s, next_line_s = scenario.cut_s, scenario.cut_s + line_every_s
    with timeline.now() as now:
        while (at_s := time.monotonic()) < end_s or not await _all_late(scenario.fleet):
            if at_s >= next_bids_s:
                scenario.remote.bid_everywhere()
                next_bids_s += every_s
            line = await _present(scenario)
            now(f"{line}; {max(0.0, end_s - at_s):.0f} s left")
            if at_s >= next_line_s:
                timeline.say(line)
                next_line_s += line_every_s
            await asyncio.sleep(min(PRESENT_S, max(POLL_S, end_s - time.monotonic())))


async def _all_late(fleet: Fleet) -> bool:
    deadlines_ms = [saga.deadline_ms for key, saga in (await fleet.sagas()).items() if key in fleet.doomed]
    return all(time.time() > deadline_ms / 1_000 + AFTER_DEADLINE_S for deadline_ms in deadlines_ms)


async def _present(scenario: Scenario) -> str:
    since_s = time.monotonic() - scenario.cut_s
    spread = await scenario.fleet.in_flight()
    window = scenario.load.window(time.monotonic() - min(since_s, 5.0) - POLL_S, time.monotonic())
    return (
        f"cut for {since_s:.0f} s: {spread.total()} in flight ({spread_text(spread)}); "
        f"{window.answered_per_s:.0f} local bids/s; {_observation_text(scenario.keeper.observations[-1])}"
    )


async def _mend(scenario: Scenario, market: Market, link: Link, timeline: Timeline) -> None:
    sagas = await scenario.fleet.sagas()
    scenario.stranded = await scenario.fleet.in_flight()
    scenario.turned_back = {key for key, saga in sagas.items() if saga.state == saga_pb2.SAGA_STATE_COMPENSATING}
    timeline.say(f"{scenario.stranded.total()} settlements wait for the link, at: {spread_text(scenario.stranded)}")
    await link.mend()
    scenario.mended_s = time.monotonic()
    timeline.say(f"MENDED: {NEAR} and {FAR} reach each other again", style="bold green")
    while True:
        scenario.left = await market.under_way()
        scenario.recovered_s = time.monotonic()
        if not scenario.left or scenario.recovery_s > RECOVERY_GIVEN_UP_S:
            break
        await asyncio.sleep(POLL_S)
    said = "nothing is in flight any more" if not scenario.left else f"{len(scenario.left)} sagas are still under way"
    timeline.say(f"{scenario.recovery_s:.1f} s later {said}")


def _observation_text(observation: Observation) -> str:
    amount = amount_text(observation.in_transit_minor, CURRENCY)
    books = f"NOT CONSERVED: {observation.wrong[0]}" if observation.wrong else "every cent there"
    return f"{books}, {amount} of it between cells in {observation.movements} movements"
