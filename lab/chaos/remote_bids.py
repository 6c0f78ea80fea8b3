"""Bids into another cell, some across the cut: each is in progress or has ended, and none is lost or doubled."""

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field

from grpc import aio

from cellbook.v1 import auction_pb2
from lab.books import Logs
from lab.chaos.links import ENDS, FAR, NEAR
from lab.chaos.settlements import CURRENCY
from lab.checks import Check, found
from lab.cluster import CELLS
from lab.market import Market, OpenAuction, Person, bid_request
from lab.play import side_by_side
from server.cli.client import LedgerRefusal, unknown_in

FUNDS_MINOR = 10**9
# How long a bidder waits for the first answer.
PATIENCE_S = 3.0
# A bid whose stored answer was late is asked about once more.
ASKS_MAX = 3

ACCEPTED, IN_PROGRESS, UNKNOWN = "accepted", "IN_PROGRESS", "no answer"
THIRD = next(cell.name for cell in CELLS if cell.name not in ENDS)
# (bidder's home, auction's cell)
ACROSS = ((NEAR, FAR), (FAR, NEAR))
AROUND = ((NEAR, THIRD), (THIRD, FAR))


@dataclass(slots=True)
class RemoteBid:
    bidder: Person
    request: auction_pb2.PlaceBidRequest
    # "accepted", a refusal's reason, "IN_PROGRESS", "no answer"
    first: str = UNKNOWN
    last: str = UNKNOWN


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
        self._across: list[Route] = []
        self._around: list[Route] = []
        self._asking: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._across = [await self._route(home, cell) for home, cell in ACROSS]
        self._around = [await self._route(home, cell) for home, cell in AROUND]

    def bid_everywhere(self) -> None:
        """ChannelPool one more bid on each route, in the background."""
        for route in (*self._across, *self._around):
            number = len(route.bids) + 1
            # Over an intact link no bid may overtake the previous one, which would then be too low.
            before = route.asking if route in self._around else None
            bidder = route.bidders[number % len(route.bidders)]
            # Amounts are unique, so an event's amount identifies its bid.
            bid = RemoteBid(bidder, bid_request(bidder, route.auction, CURRENCY, 1_000 * number))
            route.bids.append(bid)
            route.asking = asking = asyncio.create_task(self._ask(bid, before))
            self._asking.add(asking)
            asking.add_done_callback(self._asking.discard)

    async def answered(self) -> None:
        """Waits until each has had its first answer."""
        await asyncio.gather(*self._asking)

    async def ended(self) -> None:
        """Sends each once more under its id, to get its stored answer."""

        async def again(bid: RemoteBid) -> None:
            stubs = self._market.cells[bid.bidder.cell]
            principal = f"user/{bid.bidder.user_id}"
            try:
                await self._market.client.call(stubs.auctions.PlaceBid, bid.request, principal, stubs.ledger)
                bid.last = ACCEPTED
            except LedgerRefusal as refusal:
                bid.last = refusal.reason

        await side_by_side([*self.across, *self.around], again)

    @property
    def across(self) -> list[RemoteBid]:
        return [bid for route in self._across for bid in route.bids]

    @property
    def around(self) -> list[RemoteBid]:
        return [bid for route in self._around for bid in route.bids]

    def checks(self, logs: Logs) -> list[Check]:
        every = [*self.across, *self.around]
        vague = [f"a bid of {_amount(bid)} got {bid.first}" for bid in every if bid.first == UNKNOWN]
        stuck = [f"a bid of {_amount(bid)} ended as {bid.last}" for bid in self.around if bid.last != ACCEPTED]
        placed = _placed(logs)
        wrong = [
            f"a bid of {_amount(bid)} was told {bid.first}, then {bid.last}, and is {times} times in the log"
            for bid in every
            if (times := placed[bid.bidder.user_id, _amount(bid)]) != (bid.last == ACCEPTED)
            or (bid.first != bid.last and bid.first not in {IN_PROGRESS, UNKNOWN})
        ]
        told = Counter(bid.first for bid in self.across)
        return [
            found("remote bids in progress or at an end", vague, f"{len(self.across)} across the cut: {_text(told)}"),
            found("remote bids over the other links accepted", stuck, f"{len(self.around)} bids"),
            found("no remote bid lost or doubled", wrong, f"ends: {_text(Counter(bid.last for bid in every))}"),
        ]

    async def _route(self, home: str, cell: str) -> Route:
        seller = await self._market.register(f"seller to {home}", cell)
        names = (f"bidder {number} from {home}" for number in (1, 2))
        bidders = [await self._market.person(name, home, FUNDS_MINOR) for name in names]
        return Route(await self._market.open_auction(cell, seller, "far lot", CURRENCY, 100), bidders)

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
                bid.first = _told(error, bid.request)
            if bid.first != UNKNOWN:
                return


def _told(error: aio.AioRpcError, request: auction_pb2.PlaceBidRequest) -> str:
    try:
        return IN_PROGRESS if unknown_in(error, request).in_progress else UNKNOWN
    except LedgerRefusal as refusal:
        return refusal.reason


def _placed(logs: Logs) -> Counter[tuple[str, int]]:
    """(bidder, amount) -> how many such bids are in the log."""
    placed = (event for events in logs.values() for event in events if event.event_type == "BID_PLACED")
    bids = (json.loads(event.payload_json) for event in placed)
    return Counter((str(bid["bidder_id"]), int(bid["amount_minor"])) for bid in bids)


def _amount(bid: RemoteBid) -> int:
    return bid.request.amount.amount_minor


def _text(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.most_common())
