"""The work that every peer does: bids, each a hold that releases the outbid one's, durable and idempotent by its id.

A peer's program answers orders, a line of JSON each, on its standard input. It imports nothing but the standard library
and this module: it may run in an environment that has only its peer's packages.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, Protocol
from uuid import UUID

ACCEPTED, REUSED = "ACCEPTED", "COMMAND_ID_REUSED"
FUNDS_MINOR = 10**12
# As the bids of the other figures: a bidder's first of so many outbids another one, the rest raise its own.
TURN = 10
# Amounts of a tier are above all of lower ones.
TIER_BITS = 24
CHECKED = 20
_NUMBERS = count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Auction number N has users N * bidders_each and the next ones for bidders."""

    users: int
    auctions: int

    @property
    def bidders_each(self) -> int:
        return self.users // self.auctions


@dataclass(frozen=True, slots=True)
class Bid:
    command_id: UUID
    auction: int
    bidder: int
    amount_minor: int


def bids(size: Size, tier: int, client: int = 0, clients: int = 1) -> Iterator[Bid]:
    """Bids without end in the auctions of one of so many clients."""
    for step in range(1 << TIER_BITS):
        for auction in range(client, size.auctions, clients):
            turn = (step + auction) // TURN + tier
            bidder = auction * size.bidders_each + turn % size.bidders_each
            yield Bid(command_id(), auction, bidder, (tier << TIER_BITS) + step + 1)


def command_id() -> UUID:
    """Of version 7: the time, and a number where other makers put chance."""
    return UUID(int=(time.time_ns() // 1_000_000) << 80 | 7 << 76 | 2 << 62 | next(_NUMBERS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What is stored, read anew from the database."""

    available_minor: int
    reserved_minor: int
    # Of every auction.
    highest_minor: int
    # Whoever has not reserved what the auctions that they lead say.
    wrong_holds: int
    # Of bids; None where it cannot be asked.
    accepted: int | None


class Ledger(Protocol):
    """A peer. Its `place` waits for the event loop, or blocks the thread: then each client has one."""

    blocks: bool

    async def found(self, size: Size) -> None:
        """Makes its tables, users with FUNDS_MINOR each, and auctions."""

    async def place(self, placed: Sequence[Bid]) -> list[str]:
        """ACCEPTED or a refusal's name for each, when they are durable; in one transaction where the peer has any."""

    async def totals(self) -> Totals: ...


class WorkFailed(Exception):
    """A peer did not do what it was asked. The message says what."""


@dataclass(slots=True)
class Worker:
    ledger: Ledger
    size: Size
    tier: int = -1
    placed: int = 0

    async def run(self, clients: int, items: int, seconds: float) -> int:
        """How many bids were durable by the end, of so many clients who each wait for their answer."""
        self.tier += 1
        end_s = time.monotonic() + seconds
        each = [self.client(bids(self.size, self.tier, number, clients), items, end_s) for number in range(clients)]
        if self.ledger.blocks:
            with ThreadPoolExecutor(clients) as threads:
                loop = asyncio.get_running_loop()
                done = await asyncio.gather(*(loop.run_in_executor(threads, asyncio.run, one) for one in each))
        else:
            done = await asyncio.gather(*each)
        self.placed += sum(done)
        return sum(done)

    async def client(self, own: Iterator[Bid], items: int, end_s: float) -> int:
        placed = 0
        # Once at least, however late it comes to it.
        while placed == 0 or time.monotonic() < end_s:
            await self.accepted(list(islice(own, items)))
            placed += items
        return placed

    async def accepted(self, placed: Sequence[Bid]) -> None:
        outcomes = await self.ledger.place(placed)
        if outcomes != [ACCEPTED] * len(placed):
            raise WorkFailed(f"not accepted: {set(outcomes)}")

    async def check(self) -> None:
        """Raises WorkFailed unless the totals balance, all bids are there, and repeating some changes nothing."""
        self.tier += 1
        last = list(islice(bids(self.size, self.tier), CHECKED))
        await self.accepted(last)
        self.placed += len(last)
        before = await self.ledger.totals()
        await self.accepted(last)
        first = last[0]
        reused = await self.ledger.place([Bid(first.command_id, first.auction, first.bidder, first.amount_minor + 1)])
        if reused != [REUSED]:
            raise WorkFailed(f"another bid under a stored id: {reused}")
        totals = await self.ledger.totals()
        if totals != before:
            raise WorkFailed(f"repeated bids had an effect: {before}, then {totals}")
        self.balanced(totals)

    def balanced(self, totals: Totals) -> None:
        """Raises WorkFailed."""
        if totals.available_minor + totals.reserved_minor != self.size.users * FUNDS_MINOR:
            raise WorkFailed(f"money is not conserved: {totals}")
        if totals.reserved_minor != totals.highest_minor or totals.wrong_holds:
            raise WorkFailed(f"holds are wrong: {totals}")
        if totals.accepted not in {None, self.placed}:
            raise WorkFailed(f"{self.placed:,} bids were accepted: {totals}")


async def serve(ledger: Ledger) -> None:
    """Makes what the first line says, then follows an order a line: {"run": [clients, items, s]}, or {} to check."""
    lines = iter(sys.stdin.readline, "")
    worker = Worker(ledger, Size(**json.loads(next(lines))))
    await ledger.found(worker.size)
    print(json.dumps({"placed": 0}), flush=True)
    for line in lines:
        print(json.dumps(await answer(worker, json.loads(line))), flush=True)


async def answer(worker: Worker, order: dict[str, Any]) -> dict[str, int | str]:
    try:
        if "run" in order:
            return {"placed": await worker.run(*order["run"])}
        await worker.check()
    except WorkFailed as failure:
        return {"failed": str(failure)}
    return {"placed": 0}
