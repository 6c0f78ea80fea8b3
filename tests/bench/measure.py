"""Rounds of measurements that take turns, shown as they come."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from rich.console import Console

from server.cli import report
from server.cli.report import Stage
from tests.bench.calls import Bids
from tests.bench.cluster import Dataset, Ground, Side
from tests.bench.load import Plan, Result
from tests.bench.processes import Generator
from tests.bench.report import Figure, compared, number
from tests.bench.scale import Scale

Measure = Callable[[], Awaitable[float]]
# Two events a bid, but for the first of each turn, which outbids somebody and has three.
TURN = 10
BATCH_ITEMS, BATCHES_IN_FLIGHT = 125, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What every figure is measured with."""

    scale: Scale
    wanted: frozenset[str]
    ground: Ground
    generator: Generator
    console: Console
    # Another checkout, whose cell is measured in turns with ours.
    against: Path | None = None
    # Those that are done.
    figures: list[Figure] = field(default_factory=list)

    def stage(self, title: str, total: int) -> AbstractContextManager[Stage]:
        """Shows the progress between the results."""
        return report.stage(title, total, self.console)

    async def load(self, address: str, bids: Bids, *, in_flight: int) -> Result:
        """So many calls in flight for the time of one measurement."""
        plan = Plan(
            address=address, bids=bids, in_flight=in_flight, seconds=self.scale.seconds, warm_up_s=self.scale.warm_up_s
        )
        return await self.generator.run(plan)

    async def bid(self, dataset: Dataset, address: str, bids: Bids, *, in_flight: int) -> Result:
        """The same at a cell with the dataset, which counts the bids that it was sent."""
        result = await self.load(address, bids, in_flight=in_flight)
        dataset.bids += result.placed
        return result

    def bidding(self, side: Side, in_flight: int, bids: Callable[[], Bids]) -> "Bidding":
        return Bidding(bench=self, side=side, in_flight=in_flight, bids=bids)

    async def beside(self, name: str, ours: "Bidding", yardstick: str, theirs: Measure, **extra: float | str) -> Figure:
        """The figure of bids a second, in turns with its yardstick."""
        values, yardsticks = await self.in_turns(name, ours, theirs)
        return compared(name, "bids/s", values, yardstick, yardsticks, **ours.told(), **extra)

    async def in_turns(self, name: str, ours: Measure, yardstick: Measure) -> tuple[list[float], list[float]]:
        """What both measure, round by round: whatever the machine does meanwhile, it does to both."""
        values, yardsticks = [], []
        with self.stage(name, 2 * self.scale.rounds) as stage:
            for round_ in range(1, self.scale.rounds + 1):
                yardsticks.append(await self._one(yardstick, stage))
                values.append(await self._one(ours, stage))
                ratio = values[-1] / yardsticks[-1]
                self.say(f"{name} {round_}: {number(values[-1])} to {number(yardsticks[-1])}, {ratio:.2f}x")
        return values, yardsticks

    async def _one(self, measure: Measure, stage: Stage) -> float:
        value = await measure()
        stage.advance()
        return value

    def say(self, text: str) -> None:
        self.console.print(f"  [dim]{text}[/dim]", highlight=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bidding:
    """Each call has bids placed for the time of one measurement, and returns how many a second were accepted."""

    bench: Bench
    side: Side
    in_flight: int
    bids: Callable[[], Bids]
    results: list[Result] = field(default_factory=list)

    async def __call__(self) -> float:
        side = self.side
        self.results.append(
            await self.bench.bid(side.dataset, side.server.address, self.bids(), in_flight=self.in_flight)
        )
        return self.results[-1].per_s

    def told(self) -> dict[str, float]:
        """Of the rounds: how long calls took, and how many bids did not come through at once."""
        quantiles = {
            f"p{share}_ms": median(each.quantile_ms(share / 100) for each in self.results) for share in (50, 99)
        }
        again = {name: sum(getattr(each, name) for each in self.results) for name in ("turned_away", "overtaken")}
        return {**quantiles, **again}
