"""The sale of a lamp in one cell, for the rules of auctions."""

from uuid import UUID

from cells.domain.auction.auction import Auction, Bid
from cells.domain.commands import Command, CreateAuction, PlaceBid
from cells.domain.events import AssetLockTaken, AssetRegistered, AuctionCreated, BidPlaced
from cells.domain.record import replace
from cells.domain.values import Kind
from tests.unit.given import NOON_MS, OPENED, World, deposited, uid, usd

HERE, THERE = "us-east", "eu-west"
END_MS = NOON_MS + 60_000
LAMP = uid("lamp")


def created(**changes: object) -> AuctionCreated:
    base = AuctionCreated(
        asset_id=LAMP,
        seller_id=uid("sue"),
        seller_cell=HERE,
        currency="USD",
        opening_minor=100,
        increment_minor=10,
        end_time_ms=END_MS,
        extension_ms=0,
        settlement_timeout_ms=60_000,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def with_sale(world: World, sale: AuctionCreated) -> World:
    """Sue sells the lamp in this cell."""
    registered = AssetRegistered(owner_id=uid("sue"), owner_cell=sale.seller_cell, description="a lamp")
    world.given(Kind.ASSET, "lamp", registered, AssetLockTaken(auction_id=uid("sale")))
    return world.given(Kind.AUCTION, "sale", sale)


def market(*before: Command, **changes: object) -> World:
    """Sue sells a lamp; Ann and Ben have 1,000 each. The commands `before` have been decided."""
    world = World(cell=HERE)
    for name in ("ann", "ben", "sue"):
        world.given(Kind.ACCOUNT, name, OPENED, deposited(1_000, f"for-{name}"))
    with_sale(world, created(**changes))
    for command in before:
        world.when(command)
    return world


def opening(asset_id: UUID = LAMP, end_time_ms: int = END_MS) -> CreateAuction:
    return CreateAuction(
        asset_id=asset_id,
        seller_id=uid("sue"),
        opening=usd(100),
        increment_minor=1,
        end_time_ms=end_time_ms,
        extension_ms=0,
        settlement_timeout_ms=None,
    )


def bid(
    name: str, amount_minor: int, maximum_minor: int | None = None, *, cell: str = HERE, auction: str = "sale"
) -> PlaceBid:
    return PlaceBid(
        auction_id=uid(auction),
        auction_cell=cell,
        bidder_id=uid(name),
        amount=usd(amount_minor),
        maximum=None if maximum_minor is None else usd(maximum_minor),
    )


def remote_bid(amount_minor: int, maximum_minor: int | None = None, *, name: str = "rob") -> BidPlaced:
    """The bid of a user of another cell has been accepted."""
    return BidPlaced(
        bid_id=uid("rob-bid"),
        bidder_id=uid(name),
        bidder_cell=THERE,
        currency="USD",
        amount_minor=amount_minor,
        end_time_ms=END_MS,
        maximum_minor=maximum_minor,
    )


def highest_bid(world: World) -> Bid:
    highest = world.the(Auction, "sale").highest_bid
    assert highest is not None
    return highest
