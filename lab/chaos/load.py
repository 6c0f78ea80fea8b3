"""Local bids in every cell at a fixed rate: a bid does not wait for the previous one's answer."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from lab.chaos.settlements import CURRENCY
from lab.market import Market, OpenAuction, Person
from server.cli.client import ClientError, LedgerRefusal

BIDS_PER_S = 10
AUCTIONS_PER_CELL = 4
FUNDS_MINOR = 10**12


@dataclass(slots=True)
class Bid:
    sent_s: float
    answered_s: float = 0.0
    # The reason of a refusal, or why there was no answer.
    problem: str = ""
    answered: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The answers within a period of time."""

    answered_per_s: float
    p50_ms: float
    p99_ms: float


@dataclass(slots=True)
class Stall:
    """One cell's bidders, whose home is the cell they bid in."""

    auctions: list[OpenAuction]
    bidders: list[Person]
    bids: list[Bid] = field(default_factory=list)


class LocalLoad:
    def __init__(self, market: Market) -> None:
        self._market = market
        self._stalls: dict[str, Stall] = {}

    async def open(self) -> None:
        for cell in self._market.cells:
            seller = await self._market.register(f"local seller of {cell}", cell)
            names = (f"local bidder {number} of {cell}" for number in (1, 2))
            bidders = [await self._market.person(name, cell, FUNDS_MINOR) for name in names]
            auctions = [
                await self._market.open_auction(cell, seller, f"local lot {number}", CURRENCY, 1)
                for number in range(AUCTIONS_PER_CELL)
            ]
            self._stalls[cell] = Stall(auctions, bidders)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Bids in every cell meanwhile; at the end each bid has been answered, or given up by the client."""
        stop = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                for stall in self._stalls.values():
                    group.create_task(self._bid_on(stall, stop, group))
                try:
                    yield
                finally:
                    stop.set()
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    def bids(self) -> dict[str, list[Bid]]:
        return {cell: stall.bids for cell, stall in self._stalls.items()}

    def window(self, from_s: float, to_s: float) -> Window:
        """Of all cells together; monotonic times."""
        bids = [bid for stall in self._stalls.values() for bid in stall.bids if from_s <= bid.answered_s < to_s]
        waits = sorted(bid.answered_s - bid.sent_s for bid in bids) or [0.0]
        return Window(
            answered_per_s=len(bids) / (to_s - from_s),
            p50_ms=1_000 * waits[len(waits) // 2],
            p99_ms=1_000 * waits[len(waits) * 99 // 100],
        )

    async def _bid_on(self, stall: Stall, stop: asyncio.Event, group: asyncio.TaskGroup) -> None:
        started_s, number = time.monotonic(), 0
        while not stop.is_set():
            number += 1
            bid = Bid(sent_s=time.monotonic())
            stall.bids.append(bid)
            group.create_task(self._answer(stall, bid, number))
            # Paced by the clock: a late answer does not delay the next bid.
            await asyncio.sleep(max(0.0, started_s + number / BIDS_PER_S - time.monotonic()))

    async def _answer(self, stall: Stall, bid: Bid, number: int) -> None:
        auction = stall.auctions[number % len(stall.auctions)]
        bidder = stall.bidders[number // len(stall.auctions) % len(stall.bidders)]
        try:
            await self._market.bid(bidder, auction, CURRENCY, number)
            bid.answered = True
        except LedgerRefusal as refusal:
            bid.answered, bid.problem = True, refusal.reason
        except ClientError as error:
            bid.problem = str(error)
        bid.answered_s = time.monotonic()
