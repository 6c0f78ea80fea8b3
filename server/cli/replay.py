"""`cellbook replay FILE`: plays recorded bids in their order."""

from collections.abc import Sequence

from server.cli.bidfile import Lot
from server.cli.market import Market
from server.cli.outcomes import sold_as_expected
from server.cli.progress import Progress
from server.cli.run import Run, examine, play


async def run_replay(lots: Sequence[Lot], market: Market, progress: Progress) -> Run:
    run = await play(market, lots, progress)
    run.checks.append(sold_as_expected(run.sales))
    await examine(market, run, progress)
    return run
