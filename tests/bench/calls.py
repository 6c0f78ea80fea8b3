"""The bytes of calls that bid, made so that they cost the load generator next to nothing.

Of several clients each has auctions of its own, which it bids in one after the other: a bid is sent when the one before
it in its auction is answered, so that none comes too late. In each auction its bidders take turns of `turn` bids: the
first bid of a turn outbids another bidder (three events), those after it raise the bidder's own (two). After a period
of auctions * bidders * turn bids all begins anew, with higher amounts: a call of one period is that of the one before,
but for a few bytes.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import md5
from itertools import count
from uuid import UUID

from cellbook.v1 import auction_pb2, types_pb2

# Who calls, in metadata.
SERVICE, BANK, OPERATOR, AUDITOR = (
    (("cellbook-principal", f"{role}/bench"),) for role in ("service", "treasury", "operator", "auditor")
)
CLIENTS_MAX = 64
# So many bids are kept as bytes.
KEPT_BIDS = 100_000
# Amounts are (high << LOW_BITS | low). `low` rises within a period, `high` with each; encoded, `high` is 3 bytes.
LOW_BITS = 21
_HIGH_FIRST, _HIGH_END = 1 << 14, 1 << 21
_HIGH_PLACEHOLDER = 0x1EDCBA
# Periods of one tier.
TIER_PERIODS = 1024
# A version 7 UUID: milliseconds, and a counter where other makers put chance. Its end tells the items of a call apart.
_ID_PLACEHOLDER = "facadefa-cade-7fac"
_ID_COUNTER_BITS = 12
FUNDS_MINOR = 10**12


@dataclass(frozen=True, slots=True, kw_only=True)
class Bids:
    """Bids without end of client `client`, from its bid `first` on. Amounts of a `tier` are above all of lower ones."""

    auctions: tuple[str, ...]
    bidders_each: int
    turn: int
    items: int
    tier: int
    # 0: unary calls of one bid.
    batch: bool
    first: int = 0
    client: int = 0
    clients: int = 1

    def __post_init__(self) -> None:
        if self.period % self.items or self.first % self.items:
            raise ValueError(f"calls of {self.items} bids do not fit into a period of {self.period} from {self.first}")
        if self.bidders_each * self.turn >= 1 << LOW_BITS:
            raise ValueError(f"a period of {self.period} bids is too long for its amounts")

    @property
    def period(self) -> int:
        return self._own_auctions * self.bidders_each * self.turn

    @property
    def _own_auctions(self) -> int:
        return len(range(self.client, len(self.auctions), self.clients))

    def of(self, client: int, clients: int) -> "Bids":
        """Those of one among so many."""
        return replace(self, client=client, clients=clients)

    def calls(self) -> Iterator[bytes]:
        template = _kept(self)
        for bid in count(self.first, self.items):
            period, offset = divmod(bid, self.period)
            if period >= TIER_PERIODS:
                raise ValueError(f"more bids than a tier has amounts for: {bid}")
            high = _HIGH_FIRST + self.tier * TIER_PERIODS + period
            yield template(offset).replace(_ID_PLACEHOLDER.encode(), next(_IDS)).replace(_PLACEHOLDER, _varint(high))

    def template(self, offset: int) -> bytes:
        """The call whose first bid is the period's bid `offset`."""
        items = [self._bid(bid) for bid in range(offset, offset + self.items)]
        message = auction_pb2.BatchPlaceBidsRequest(items=items) if self.batch else items[0]
        return message.SerializeToString()

    def _bid(self, bid: int) -> auction_pb2.PlaceBidRequest:
        step, own = divmod(bid, self._own_auctions)
        auction = self.client + own * self.clients
        # Turns end at different times in different auctions, and another bidder begins each tier.
        turn = (step + auction) // self.turn + self.tier
        bidder = auction * self.bidders_each + turn % self.bidders_each
        amount_minor = _HIGH_PLACEHOLDER << LOW_BITS | step
        return auction_pb2.PlaceBidRequest(
            command_id=f"{_ID_PLACEHOLDER}-8000-{bid % self.items:012x}",
            auction=self.auctions[auction],
            bidder_user_id=user_id(bidder),
            amount=types_pb2.Money(currency="USD", amount_minor=amount_minor),
        )


def user_id(number: int) -> str:
    """The same for the same number, and as scattered as random ones."""
    return str(UUID(bytes=md5(b"%d" % number, usedforsecurity=False).digest(), version=4))


def command_ids() -> Iterator[bytes]:
    """The beginnings of version 7 UUIDs of now, each once."""
    last = 0
    while True:
        last = max(last + 1, time.time_ns() // 1_000_000 << _ID_COUNTER_BITS)
        ms, counter = last >> _ID_COUNTER_BITS, last & (1 << _ID_COUNTER_BITS) - 1
        yield b"%08x-%04x-7%03x" % (ms >> 16, ms & 0xFFFF, counter)


# One for all clients.
_IDS = command_ids()


def _varint(high: int) -> bytes:
    """The last bytes of an amount: exactly 3."""
    if not _HIGH_FIRST <= high < _HIGH_END:
        raise ValueError(f"not 3 bytes: {high}")
    return bytes((high & 127 | 128, high >> 7 & 127 | 128, high >> 14))


_PLACEHOLDER = _varint(_HIGH_PLACEHOLDER)


@lru_cache(maxsize=CLIENTS_MAX)
def _kept(bids: Bids) -> Callable[[int], bytes]:
    return lru_cache(maxsize=max(1, KEPT_BIDS // (bids.items * bids.clients)))(bids.template)
