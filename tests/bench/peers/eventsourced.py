"""The same ledger in PyPI's eventsourcing: `python -m tests.bench.peers.eventsourced SOCKET_FOLDER DATABASE`.

Accounts and auctions are aggregates; a command is one `save`, which is one transaction. Used well: aggregates stay in
the cache of the only process, so none is read again; the library's database function inserts the events.
"""

import asyncio
import sys
from collections.abc import Sequence
from typing import TypeVar, cast
from uuid import UUID, uuid5

from eventsourcing.application import AggregateNotFoundError, Application
from eventsourcing.domain import Aggregate, DomainEvent, event
from eventsourcing.persistence import IntegrityError

from tests.bench.peers.work import ACCEPTED, FUNDS_MINOR, REUSED, Bid, Size, Totals, WorkFailed, serve

THREADS_MAX = 16
SAVED_TOGETHER = 500
ATTEMPTS = 10
NAMESPACE = UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")


class Account(Aggregate):
    def __init__(self, number: int, available_minor: int) -> None:
        self.number = number
        self.available_minor = available_minor
        self.reserved_minor = 0

    @staticmethod
    def create_id(number: int) -> UUID:
        return uuid5(NAMESPACE, f"accounts/{number}")

    @event("HoldChanged")
    def hold(self, change_minor: int) -> None:
        self.available_minor -= change_minor
        self.reserved_minor += change_minor


class Auction(Aggregate):
    def __init__(self, number: int) -> None:
        self.number = number
        self.leader: int | None = None
        self.highest_minor = 0

    @staticmethod
    def create_id(number: int) -> UUID:
        return uuid5(NAMESPACE, f"auctions/{number}")

    @event("BidPlaced")
    def bid(self, bidder: int, amount_minor: int) -> None:
        self.leader, self.highest_minor = bidder, amount_minor


class CommandDone(DomainEvent):
    """The only event of a stream that has the command's id: a second one violates the events' primary key."""

    auction: int
    bidder: int
    amount_minor: int
    outcome: str


Kind = TypeVar("Kind", Account, Auction)


class Market(Application[UUID]):
    pass


class EventsourcedLedger:
    blocks = True

    def __init__(self, folder: str, database: str) -> None:
        self.env = {
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "POSTGRES_HOST": folder,
            "POSTGRES_DBNAME": database,
            "POSTGRES_USER": "postgres",
            "POSTGRES_PASSWORD": "",
            "POSTGRES_POOL_SIZE": str(THREADS_MAX),
            "POSTGRES_ENABLE_DB_FUNCTIONS": "y",
            "AGGREGATE_CACHE_MAXSIZE": "1000000",
            "AGGREGATE_CACHE_FASTFORWARD": "n",
        }
        self.market = Market(self.env)
        self.size = Size(users=0, auctions=0)

    async def found(self, size: Size) -> None:
        self.size = size
        people = [Account(number=number, available_minor=FUNDS_MINOR) for number in range(size.users)]
        made: list[Aggregate] = [*people, *(Auction(number=number) for number in range(size.auctions))]
        for first in range(0, len(made), SAVED_TOGETHER):
            self.market.save(*made[first : first + SAVED_TOGETHER])

    async def place(self, placed: Sequence[Bid]) -> list[str]:
        for _ in range(ATTEMPTS):
            try:
                return self.saved(placed)
            except IntegrityError:
                # A command was there already, or another thread has changed an aggregate.
                if len(placed) > 1:
                    return [outcome for bid in placed for outcome in await self.place([bid])]
                if stored := self.stored(placed[0]):
                    return [stored]
        raise WorkFailed(f"{ATTEMPTS} attempts were overtaken")

    def saved(self, placed: Sequence[Bid]) -> list[str]:
        """Decided in order, and stored together."""
        used: dict[UUID, Aggregate] = {}
        done = [
            CommandDone(
                originator_id=bid.command_id,
                originator_version=1,
                timestamp=CommandDone.create_timestamp(),
                auction=bid.auction,
                bidder=bid.bidder,
                amount_minor=bid.amount_minor,
                outcome=self.decided(bid, used),
            )
            for bid in placed
        ]
        self.market.save(*used.values(), *done)
        return [each.outcome for each in done]

    def decided(self, bid: Bid, used: dict[UUID, Aggregate]) -> str:
        try:
            auction = self.loaded(Auction, bid.auction, used)
            bidder = self.loaded(Account, bid.bidder, used)
        except AggregateNotFoundError:
            return "NOT_FOUND"
        if bid.amount_minor <= auction.highest_minor:
            return "BID_TOO_LOW"
        raised_minor = bid.amount_minor - (auction.highest_minor if auction.leader == bid.bidder else 0)
        if bidder.available_minor < raised_minor:
            return "INSUFFICIENT_FUNDS"
        bidder.hold(raised_minor)
        if auction.leader not in {None, bid.bidder}:
            self.loaded(Account, auction.leader, used).hold(-auction.highest_minor)
        auction.bid(bid.bidder, bid.amount_minor)
        return ACCEPTED

    def loaded(self, kind: type[Kind], number: int, used: dict[UUID, Aggregate]) -> Kind:
        aggregate_id = kind.create_id(number)
        if aggregate_id not in used:
            used[aggregate_id] = self.market.repository.get(aggregate_id)
        return cast("Kind", used[aggregate_id])

    def stored(self, bid: Bid) -> str | None:
        for done in self.market.events.get(bid.command_id):
            same = (done.auction, done.bidder, done.amount_minor) == (bid.auction, bid.bidder, bid.amount_minor)
            return done.outcome if same else REUSED
        return None

    async def totals(self) -> Totals:
        """By a second application, whose cache is empty: from the stored events alone."""
        fresh = Market(self.env)
        try:
            people = [fresh.repository.get(Account.create_id(number)) for number in range(self.size.users)]
            auctions = [fresh.repository.get(Auction.create_id(number)) for number in range(self.size.auctions)]
            with fresh.recorder.datastore.transaction() as cursor:
                cursor.execute("SELECT count(*) AS n FROM market_events WHERE topic LIKE '%CommandDone'")
                accepted = cursor.fetchone()["n"]
        finally:
            fresh.close()
        held = dict.fromkeys(range(self.size.users), 0)
        for auction in auctions:
            if auction.leader is not None:
                held[auction.leader] += auction.highest_minor
        return Totals(
            available_minor=sum(person.available_minor for person in people),
            reserved_minor=sum(person.reserved_minor for person in people),
            highest_minor=sum(auction.highest_minor for auction in auctions),
            wrong_holds=sum(person.reserved_minor != held[person.number] for person in people),
            accepted=accepted,
        )


if __name__ == "__main__":
    asyncio.run(serve(EventsourcedLedger(*sys.argv[1:])))
