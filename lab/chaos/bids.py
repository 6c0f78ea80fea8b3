"""Bids during the cut: local ones in every cell at a fixed rate, and remote ones, some of them across the cut."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from grpc import aio

from cellbook.v1 import auction_pb2
from lab.books import Check, Logs, found
from lab.chaos.links import ENDS, FAR, NEAR
from lab.chaos.settlements import CURRENCY
from lab.cluster import CELLS
from lab.market import Market, OpenAuction, Person, bid_request
from lab.play import side_by_side
from server.cli.client import ClientError, LedgerRefusal, unknown_in

BIDS_PER_S = 10
AUCTIONS_PER_CELL = 4
LOCAL_FUNDS_MINOR, REMOTE_FUNDS_MINOR = 10**12, 10**9
# How long a remote bidder waits for the first answer.
PATIENCE_S = 3.0
# A bid whose stored answer was late is asked about once more.
ASKS_MAX = 3

ACCEPTED, IN_PROGRESS, UNKNOWN = "accepted", "IN_PROGRESS", "no answer"
THIRD = next(cell.name for cell in CELLS if cell.name not in ENDS)
# (bidder's home, auction's cell)
ACROSS = ((NEAR, FAR), (FAR, NEAR))
AROUND = ((NEAR, THIRD), (THIRD, FAR))


async def _bidders(market: Market, label: str, cell: str, funds_minor: int) -> list[Person]:
    return [await market.person(f"{label} {number} of {cell}", cell, funds_minor) for number in (1, 2)]


# --- local bids -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Bid:
    sent_s: float
    answered_s: float = 0.0
    # The reason of a refusal, or why there was no answer.
    problem: str = ""
    answered: bool = False


class Window(NamedTuple):
    """The answers within a period of time."""

    answered_per_s: float
    p99_ms: float


class LocalLoad:
    """A bid does not wait for the previous one's answer. Bidders bid in the cell that is their home."""

    def __init__(self, market: Market) -> None:
        self._market = market
        # Auctions and bidders of each cell.
        self._stalls: list[tuple[list[OpenAuction], list[Person]]] = []
        self.bids: list[Bid] = []

    async def open(self) -> None:
        for cell in self._market.cells:
            seller = await self._market.register(f"local seller of {cell}", cell)
            bidders = await _bidders(self._market, "local bidder", cell, LOCAL_FUNDS_MINOR)
            auctions = [
                await self._market.open_auction(cell, seller, f"local lot {number}", CURRENCY, 1)
                for number in range(AUCTIONS_PER_CELL)
            ]
            self._stalls.append((auctions, bidders))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Bids in every cell meanwhile; at the end each bid has been answered, or given up by the client."""
        stop = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                for auctions, bidders in self._stalls:
                    group.create_task(self._bid_on(auctions, bidders, stop, group))
                try:
                    yield
                finally:
                    stop.set()
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    def window(self, from_s: float, to_s: float) -> Window:
        """Of all cells together; monotonic times."""
        bids = [bid for bid in self.bids if from_s <= bid.answered_s < to_s]
        waits = sorted(bid.answered_s - bid.sent_s for bid in bids) or [0.0]
        return Window(len(bids) / (to_s - from_s), 1_000 * waits[len(waits) * 99 // 100])

    async def _bid_on(
        self, auctions: list[OpenAuction], bidders: list[Person], stop: asyncio.Event, group: asyncio.TaskGroup
    ) -> None:
        started_s, number = time.monotonic(), 0
        while not stop.is_set():
            number += 1
            bidder = bidders[number // len(auctions) % len(bidders)]
            group.create_task(self._bid(bidder, auctions[number % len(auctions)], number))
            # Paced by the clock: a late answer does not delay the next bid.
            await asyncio.sleep(max(0.0, started_s + number / BIDS_PER_S - time.monotonic()))

    async def _bid(self, bidder: Person, auction: OpenAuction, amount_minor: int) -> None:
        bid = Bid(sent_s=time.monotonic())
        self.bids.append(bid)
        try:
            await self._market.bid(bidder, auction, CURRENCY, amount_minor)
            bid.answered = True
        except LedgerRefusal as refusal:
            bid.answered, bid.problem = True, refusal.reason
        except ClientError as error:
            bid.problem = str(error)
        bid.answered_s = time.monotonic()


# --- remote bids: each is in progress or has ended, and none is lost or doubled -------------------------------------


@dataclass(slots=True)
class RemoteBid:
    bidder: Person
    request: auction_pb2.PlaceBidRequest
    # "accepted", a refusal's reason, "IN_PROGRESS", "no answer"
    first: str = UNKNOWN
    last: str = UNKNOWN

    @property
    def amount_minor(self) -> int:
        return self.request.amount.amount_minor


@dataclass(slots=True)
class Route:
    auction: OpenAuction
    bidders: list[Person]
    bids: list[RemoteBid] = field(default_factory=list)
    # The task that asks about the latest answer.
    asking: "asyncio.Task[None] | None" = None


class RemoteBids:
    """Over the link that is cut (`across`), and over the other links (`around`)."""

    def __init__(self, market: Market) -> None:
        self._market = market
        self._routes: list[Route] = []
        self._asking: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._routes = [await self._route(home, cell) for home, cell in ACROSS + AROUND]

    async def _route(self, home: str, cell: str) -> Route:
        seller = await self._market.register(f"seller to {home}", cell)
        bidders = await _bidders(self._market, "bidder", home, REMOTE_FUNDS_MINOR)
        return Route(await self._market.open_auction(cell, seller, "far lot", CURRENCY, 100), bidders)

    def bid_everywhere(self) -> None:
        """Places one more bid on each route, in the background."""
        for route in self._routes:
            number = len(route.bids) + 1
            # Over an intact link no bid may overtake the previous one, which would then be too low.
            before = None if route in self._routes[: len(ACROSS)] else route.asking
            bidder = route.bidders[number % len(route.bidders)]
            # Amounts are unique, so an event's amount identifies its bid.
            bid = RemoteBid(bidder, bid_request(bidder, route.auction, CURRENCY, 1_000 * number))
            route.bids.append(bid)
            route.asking = asking = asyncio.create_task(self._ask(bid, before))
            self._asking.add(asking)
            asking.add_done_callback(self._asking.discard)

    async def _ask(self, bid: RemoteBid, before: "asyncio.Task[None] | None") -> None:
        if before is not None:
            await asyncio.wait([before])
        stub = self._market.cells[bid.bidder.cell].auctions
        metadata = self._market.client.access.metadata(f"user/{bid.bidder.user_id}")
        for _ in range(ASKS_MAX):
            try:
                await stub.PlaceBid(bid.request, timeout=PATIENCE_S, metadata=metadata)
                bid.first = ACCEPTED
            except aio.AioRpcError as error:
                bid.first = _answer_text(error, bid.request)
            if bid.first != UNKNOWN:
                return

    async def answered(self) -> None:
        """Waits until each has had its first answer."""
        await asyncio.gather(*self._asking)

    async def ended(self) -> None:
        """Sends each once more under its id, to get its stored answer."""

        async def again(bid: RemoteBid) -> None:
            try:
                await self._market.send(bid.bidder, bid.request)
                bid.last = ACCEPTED
            except LedgerRefusal as refusal:
                bid.last = refusal.reason

        await side_by_side(self.across + self.around, again)

    @property
    def across(self) -> list[RemoteBid]:
        return [bid for route in self._routes[: len(ACROSS)] for bid in route.bids]

    @property
    def around(self) -> list[RemoteBid]:
        return [bid for route in self._routes[len(ACROSS) :] for bid in route.bids]

    def checks(self, logs: Logs) -> list[Check]:
        every = self.across + self.around
        vague = [f"a bid of {bid.amount_minor} got {bid.first}" for bid in every if bid.first == UNKNOWN]
        stuck = [f"a bid of {bid.amount_minor} ended as {bid.last}" for bid in self.around if bid.last != ACCEPTED]
        placed = _placed(logs)
        wrong = [
            f"a bid of {bid.amount_minor} was told {bid.first}, then {bid.last}, and is {times} times in the log"
            for bid in every
            if (times := placed[bid.bidder.user_id, bid.amount_minor]) != (bid.last == ACCEPTED)
            or (bid.first != bid.last and bid.first not in {IN_PROGRESS, UNKNOWN})
        ]
        seen = Counter(bid.first for bid in self.across)
        return [
            found("remote bids in progress or at an end", vague, f"{len(self.across)} across the cut: {_text(seen)}"),
            found("remote bids over the other links accepted", stuck, f"{len(self.around)} bids"),
            found("no remote bid lost or doubled", wrong, f"ends: {_text(Counter(bid.last for bid in every))}"),
        ]


def _answer_text(error: aio.AioRpcError, request: auction_pb2.PlaceBidRequest) -> str:
    try:
        return IN_PROGRESS if unknown_in(error, request).in_progress else UNKNOWN
    except LedgerRefusal as refusal:
        return refusal.reason


def _placed(logs: Logs) -> Counter[tuple[str, int]]:
    """(bidder, amount) -> how many such bids are in the log."""
    placed = (event for events in logs.values() for event in events if event.event_type == "BID_PLACED")
    bids = (json.loads(event.payload_json) for event in placed)
    return Counter((str(bid["bidder_id"]), int(bid["amount_minor"])) for bid in bids)


def _text(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.most_common())
