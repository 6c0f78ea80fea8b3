"""Plays auctions: the bids of one auction strictly in sequence, many auctions concurrently."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from cellbook.v1 import auction_pb2, ledger_pb2, saga_pb2
from lab.lots import Lot, expected, funds_needed
from lab.market import Market, OpenAuction, Person
from server.cli.client import ClientError, LedgerRefusal
from server.cli.progress import Progress

AUCTIONS_AT_ONCE = 64
CALLS_AT_ONCE = 64
SELLERS_PER_CELL = 2

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """The participants: bidders by their number in the file, sellers in turn of their cells."""

    bidders: dict[int, Person]
    sellers: list[Person]

    def by_user_id(self) -> dict[str, Person]:
        return {person.user_id: person for person in (*self.bidders.values(), *self.sellers)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The cell and the seller of a lot."""

    cell: str
    seller: Person


@dataclass(frozen=True, slots=True, kw_only=True)
class Sale:
    """A lot and its result."""

    lot: Lot
    auction: OpenAuction
    accepted: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    # Reason of a refusal -> an example of its message.
    examples: dict[str, str] = field(default_factory=dict)
    state: "auction_pb2.AuctionState.ValueType" = auction_pb2.AUCTION_STATE_ACTIVE
    winner: Person | None = None
    # The winner's number in the file.
    winner_number: int | None = None
    price_minor: int = 0
    saga_id: str = ""
    saga_state: "saga_pb2.SagaState.ValueType" = saga_pb2.SAGA_STATE_UNSPECIFIED

    @property
    def refused(self) -> int:
        return self.refusals.total()


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The balances of winner and seller at one moment, in the auction's currency."""

    winner: ledger_pb2.Balance
    seller: ledger_pb2.Balance


@dataclass(frozen=True, slots=True, kw_only=True)
class Featured:
    """A sale that was settled alone, so that its effect can be seen."""

    sale: Sale
    winner: Person
    before: Snapshot
    after: Snapshot


async def side_by_side(
    items: Iterable[Item], work: Callable[[Item], Awaitable[Made]], *, limit: int = CALLS_AT_ONCE
) -> list[Made]:
    """`work` of each item, at most `limit` at once, results in order. The first failure ends all."""
    gate = asyncio.Semaphore(limit)

    async def one(item: Item) -> Made:
        async with gate:
            return await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(item)) for item in items]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


async def gather_cast(market: Market, lots: Sequence[Lot], progress: Progress) -> Cast:
    """Registers bidders and sellers, homes in turn, each bidder with funds for all of its bids."""
    needed: dict[int, dict[str, int]] = defaultdict(dict)
    for (number, currency), amount_minor in sorted(funds_needed(list(lots)).items()):
        needed[number][currency] = amount_minor
    cells = market.cell_names

    async def bidder(indexed: tuple[int, int]) -> Person:
        index, number = indexed
        person = await market.register(f"bidder {number}", cells[index % len(cells)])
        for currency, amount_minor in needed[number].items():
            await market.deposit(person, currency, amount_minor)
        stage.advance()
        return person

    async def seller(index: int) -> Person:
        return await market.register(f"seller {index + 1}", cells[index % len(cells)])

    with progress.stage("registering bidders and sellers, taking deposits", len(needed)) as stage:
        sellers = await side_by_side(range(SELLERS_PER_CELL * len(cells)), seller)
        bidders = await side_by_side(enumerate(needed), bidder)
    return Cast(bidders=dict(zip(needed, bidders, strict=True)), sellers=sellers)


def places(lots: Sequence[Lot], cells: Sequence[str], sellers: Sequence[Person]) -> list[Place]:
    """Lots in turn over the cells; among nine of them each cell is the seller's home three times."""
    count = len(cells)
    spread = []
    for index in range(len(lots)):
        home = (index + 1 + index // count) % count
        seller = sellers[(home + count * (index // count**2)) % len(sellers)]
        spread.append(Place(cell=cells[index % count], seller=seller))
    return spread


def featured_index(lots: Sequence[Lot], where: Sequence[Place], bidders: Mapping[int, Person]) -> int | None:
    """The first lot whose settlement will involve the most cells; None if no lot will be won."""
    best, touched = None, 0
    for index, (lot, place) in enumerate(zip(lots, where, strict=True)):
        winner = expected(lot).winner
        cells = {place.cell, place.seller.cell, bidders[winner].cell} if winner is not None else set()
        if len(cells) > touched:
            best, touched = index, len(cells)
    return best


async def placed(market: Market, sale: Sale, bidder: Person, amount_minor: int, currency: str = "") -> Sale:
    """The sale with what came of one more bid."""
    try:
        await market.bid(bidder, sale.auction, currency or sale.lot.currency, amount_minor)
    except LedgerRefusal as refusal:
        examples = {refusal.reason: refusal.message, **sale.examples}
        return replace(sale, refusals=sale.refusals + Counter([refusal.reason]), examples=examples)
    return replace(sale, accepted=sale.accepted + 1)


async def play_bids(
    market: Market,
    lot: Lot,
    place: Place,
    bidders: Mapping[int, Person],
    told: Callable[[], None] = lambda: None,
) -> Sale:
    """Opens the auction and places its bids, each after the answer to the previous one. Leaves it open."""
    auction = await market.open_auction(place.cell, place.seller, lot.item, lot.currency, lot.opening_minor)
    sale = Sale(lot=lot, auction=auction)
    for bid in lot.bids:
        sale = await placed(market, sale, bidders[bid.bidder], bid.amount_minor)
        told()
    return sale


async def close(market: Market, sale: Sale, bidders: Mapping[int, Person]) -> Sale:
    """Closes the auction. If there is a winner, the settlement is under way on return."""
    reply = await market.close(sale.auction)
    if not reply.HasField("winning_bid"):
        return replace(sale, state=reply.state)
    winner_id = reply.winning_bid.bidder_user_id
    number = next((number for number, person in bidders.items() if person.user_id == winner_id), None)
    if number is None:
        raise ClientError(f"{sale.auction.name} was won by {winner_id}, who is none of our bidders")
    return replace(
        sale,
        state=reply.state,
        winner=bidders[number],
        winner_number=number,
        price_minor=reply.winning_bid.amount.amount_minor,
        saga_id=reply.saga_id,
    )


async def settled(market: Market, sale: Sale) -> Sale:
    """The sale with the current states of auction and saga."""
    auction = await market.auction(sale.auction)
    if not sale.saga_id:
        return replace(sale, state=auction.state)
    saga = await market.saga(sale.auction.cell, sale.saga_id)
    return replace(sale, state=auction.state, saga_state=saga.state)


async def close_featured(market: Market, sale: Sale, bidders: Mapping[int, Person]) -> tuple[Sale, Featured | None]:
    """Closes `sale` while nothing else is under way, and reads both balances before and after."""
    leader = (await market.auction(sale.auction)).highest_bid.bidder_user_id
    winner = next((person for person in bidders.values() if person.user_id == leader), None)
    if winner is None:
        return await close(market, sale, bidders), None
    before = await _snapshot(market, sale, winner)
    sale = await close(market, sale, bidders)
    await market.wait_until_quiet()
    sale = await settled(market, sale)
    after = await _snapshot(market, sale, winner)
    return sale, Featured(sale=sale, winner=winner, before=before, after=after)


async def _snapshot(market: Market, sale: Sale, winner: Person) -> Snapshot:
    currency, seller = sale.lot.currency, sale.auction.seller
    nothing = ledger_pb2.Balance(currency=currency)
    theirs = await market.balances(winner.cell, winner.user_id)
    sellers = await market.balances(seller.cell, seller.user_id)
    return Snapshot(winner=theirs.get(currency, nothing), seller=sellers.get(currency, nothing))
