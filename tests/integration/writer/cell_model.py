"""A cell as a child could keep it on paper: balances, holds and auctions as plain numbers, refusals by name."""

from dataclasses import dataclass, field
from uuid import UUID

FEE_BPS = 1_000
AMOUNT_MAX = 2**63 - 1
BALANCE_MAX = 2**62 - 1


@dataclass(slots=True)
class ModelHold:
    user: UUID
    amount: int
    expires_ms: int | None


@dataclass(slots=True)
class ModelAuction:
    seller: UUID
    asset: UUID
    least: int
    increment: int
    end_ms: int
    extension_ms: int
    state: str = "ACTIVE"
    leader: UUID | None = None
    highest: int = 0
    # The leader's maximum, which is held.
    limit: int = 0

    def least_bid(self, bidder: UUID) -> int:
        if self.leader is None:
            return self.least
        return max(self.highest + self.increment, self.limit + 1 if self.leader == bidder else 0)


@dataclass(slots=True)
class Model:
    """Balances, holds and auctions as plain numbers."""

    available: dict[UUID, int] = field(default_factory=dict)
    fees: int = 0
    outside: int = 0
    references: set[str] = field(default_factory=set)
    holds: dict[UUID, ModelHold] = field(default_factory=dict)
    auctions: dict[UUID, ModelAuction] = field(default_factory=dict)
    owners: dict[UUID, UUID] = field(default_factory=dict)

    def reserved(self, user: UUID) -> int:
        holds = sum(hold.amount for hold in self.holds.values() if hold.user == user)
        return holds + sum(self.bid_of(user, auction) for auction in self.auctions.values())

    def bid_of(self, user: UUID, auction: ModelAuction) -> int:
        return auction.limit if auction.state == "ACTIVE" and auction.leader == user else 0

    def bid_refusal(self, auction: ModelAuction, bidder: UUID, limit: int, now_ms: int) -> str:
        if auction.state != "ACTIVE" or now_ms >= auction.end_ms:
            return "AUCTION_NOT_ACTIVE"
        if bidder == auction.seller:
            return "BID_ON_OWN_AUCTION"
        if limit < auction.least_bid(bidder):
            return "BID_TOO_LOW"
        return "INSUFFICIENT_FUNDS" if limit - self.bid_of(bidder, auction) > self.available[bidder] else ""

    def bid(self, auction: ModelAuction, bidder: UUID, amount: int, limit: int, now_ms: int) -> None:
        before = auction.highest if auction.leader else -auction.increment
        if auction.leader not in {None, bidder} and limit <= auction.limit:
            auction.highest = min(auction.limit, limit + auction.increment)
        else:
            if auction.leader is None:
                dear = auction.least
            elif auction.leader == bidder:
                dear = auction.highest
            else:
                dear = min(limit, auction.limit + auction.increment)
            self.release_leader(auction)
            self.available[bidder] -= limit
            auction.leader, auction.highest, auction.limit = bidder, max(amount, dear), limit
        if auction.extension_ms and auction.highest >= before + auction.increment:
            auction.end_ms = max(auction.end_ms, now_ms + auction.extension_ms)

    def release_leader(self, auction: ModelAuction) -> None:
        if auction.leader:
            self.available[auction.leader] += auction.limit

    def close(self, auction: ModelAuction) -> None:
        auction.state = "SETTLED" if auction.leader else "UNSOLD"
        if auction.leader:
            fee = auction.highest * FEE_BPS // 10_000
            self.available[auction.leader] += auction.limit - auction.highest
            self.available[auction.seller] += auction.highest - fee
            self.fees += fee
            self.owners[auction.asset] = auction.leader

    def due(self) -> list[int]:
        ends_ms = [auction.end_ms for auction in self.auctions.values() if auction.state == "ACTIVE"]
        return ends_ms + [hold.expires_ms for hold in self.holds.values() if hold.expires_ms is not None]

    def pass_until(self, now_ms: int) -> None:
        for hold_id, hold in list(self.holds.items()):
            if hold.expires_ms is not None and hold.expires_ms <= now_ms:
                self.available[hold.user] += hold.amount
                del self.holds[hold_id]
        for auction in self.auctions.values():
            if auction.state == "ACTIVE" and auction.end_ms <= now_ms:
                self.close(auction)
