"""Plays auctions: the bids of one auction strictly in sequence, many auctions concurrently."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from cellbook.v1 import auction_pb2, ledger_pb2, saga_pb2
from lab.lots import Lot, expected, funds_needed
from lab.market import Market, OpenAuction, Person
from server.cli.client import ClientError, LedgerRefusal
from server.cli.report import stage

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

    @property
    def labels(self) -> dict[str, str]:
        return {person.user_id: person.label for person in (*self.bidders.values(), *self.sellers)}


class Place(NamedTuple):
    """The cell and the seller of a lot."""

    cell: str
    seller: Person


@dataclass(slots=True, kw_only=True)
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


class Snapshot(NamedTuple):
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


async def gather_cast(market: Market, lots: Sequence[Lot]) -> Cast:
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
        registered.advance()
        return person

    with stage("registering bidders and sellers, taking deposits", len(needed)) as registered:
        sellers = await side_by_side(
            range(SELLERS_PER_CELL * len(cells)),
            lambda index: market.register(f"seller {index + 1}", cells[index % len(cells)]),
        )
        bidders = await side_by_side(enumerate(needed), bidder)
    return Cast(bidders=dict(zip(needed, bidders, strict=True)), sellers=sellers)


def places(lots: Sequence[Lot], cells: Sequence[str], sellers: Sequence[Person]) -> list[Place]:
    """Lots in turn over the cells; among nine of them each cell is the seller's home three times."""
    count = len(cells)
    homes = [(index + 1 + index // count) % count for index in range(len(lots))]
    return [
        Place(cells[index % count], sellers[(home + count * (index // count**2)) % len(sellers)])
        for index, home in enumerate(homes)
    ]


def featured_index(lots: Sequence[Lot], where: Sequence[Place], bidders: Mapping[int, Person]) -> int | None:
    """The first lot whose settlement will involve the most cells; None if no lot will be won."""
    best, touched = None, 0
    for index, (lot, place) in enumerate(zip(lots, where, strict=True)):
        winner = expected(lot).winner
        cells = {place.cell, place.seller.cell, bidders[winner].cell} if winner is not None else set()
        if len(cells) > touched:
            best, touched = index, len(cells)
    return best


async def place_bid(market: Market, sale: Sale, bidder: Person, amount_minor: int, currency: str = "") -> None:
    """Places one more bid, and notes what came of it."""
    try:
        await market.bid(bidder, sale.auction, currency or sale.lot.currency, amount_minor)
        sale.accepted += 1
    except LedgerRefusal as refusal:
        sale.refusals[refusal.reason] += 1
        sale.examples.setdefault(refusal.reason, refusal.message)


async def play_bids(
    market: Market, lot: Lot, place: Place, bidders: Mapping[int, Person], advance: Callable[[], None] = lambda: None
) -> Sale:
    """Opens the auction and places its bids, each after the answer to the previous one. Leaves it open."""
    auction = await market.open_auction(place.cell, place.seller, lot.item, lot.currency, lot.opening_minor)
    sale = Sale(lot=lot, auction=auction)
    for bid in lot.bids:
        await place_bid(market, sale, bidders[bid.bidder], bid.amount_minor)
        advance()
    return sale


async def close(market: Market, sale: Sale, bidders: Mapping[int, Person]) -> None:
    """Closes the auction. If there is a winner, the settlement is under way on return."""
    reply = await market.close(sale.auction)
    sale.state = reply.state
    if reply.HasField("winning_bid"):
        winner_id, sale.price_minor = reply.winning_bid.bidder_user_id, reply.winning_bid.amount.amount_minor
        sale.winner_number = next((number for number, each in bidders.items() if each.user_id == winner_id), None)
        if sale.winner_number is None:
            raise ClientError(f"{sale.auction.name} was won by {winner_id}, who is none of our bidders")
        sale.winner, sale.saga_id = bidders[sale.winner_number], reply.saga_id


async def update(market: Market, sale: Sale) -> None:
    """Reads the current states of auction and saga."""
    sale.state = (await market.auction(sale.auction)).state
    if sale.saga_id:
        sale.saga_state = (await market.saga(sale.auction.cell, sale.saga_id)).state


async def close_featured(market: Market, sale: Sale, bidders: Mapping[int, Person]) -> Featured | None:
    """Closes `sale` while nothing else is under way, and reads both balances before and after."""
    leader = (await market.auction(sale.auction)).highest_bid.bidder_user_id
    winner = next((person for person in bidders.values() if person.user_id == leader), None)
    before = await _snapshot(market, sale, winner) if winner is not None else None
    await close(market, sale, bidders)
    if winner is None or before is None:
        return None
    await market.wait_until_quiet()
    await update(market, sale)
    return Featured(sale=sale, winner=winner, before=before, after=await _snapshot(market, sale, winner))


async def _snapshot(market: Market, sale: Sale, winner: Person) -> Snapshot:
    currency = sale.lot.currency
    both = [await market.balances(each.cell, each.user_id) for each in (winner, sale.auction.seller)]
    return Snapshot(*(balances.get(currency, ledger_pb2.Balance(currency=currency)) for balances in both))
