"""Assets and auctions in one cell: given events, when a command, then events or a refusal."""

from uuid import UUID

import pytest

from cells.domain import refusals
from cells.domain.account.account import Account
from cells.domain.auction.asset import Asset
from cells.domain.auction.auction import Auction, AuctionState
from cells.domain.commands import CancelAuction, CloseAuction, CreateAuction, PlaceBid, RegisterAsset, Reserve
from cells.domain.events import (
    AccountOpened,
    AssetLockReleased,
    AssetLockTaken,
    AssetRegistered,
    AuctionCancelled,
    AuctionClosed,
    AuctionCreated,
    BidPlaced,
    Deposited,
    FundsReleased,
    FundsReserved,
)
from cells.domain.record import replace
from cells.domain.results import NewAsset, NewAuction, NewHold
from cells.domain.sagas.saga_events import ReleaseFacts, RemoteBidFacts, SagaLegCompleted, SagaStarted, SettlementFacts
from cells.domain.values import Kind, Money
from tests.unit.given import NOON_MS, World, uid, usd

HERE, THERE = "us-east", "eu-west"
END_MS = NOON_MS + 60_000
LAMP = uid("lamp")


def created(**changes: object) -> AuctionCreated:
    base = AuctionCreated(
        asset_id=uid("lamp"),
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


def market(auction: AuctionCreated | None = None) -> World:
    """Sue sells a lamp; Ann and Ben have 1,000 each."""
    world = World(cell=HERE)
    for name in ("ann", "ben", "sue"):
        money = Deposited(currency="USD", amount_minor=1_000, external_reference=f"for-{name}")
        world.given(Kind.ACCOUNT, name, AccountOpened(home_epoch=1), money)
    registered = AssetRegistered(owner_id=uid("sue"), owner_cell=HERE, description="a lamp")
    world.given(Kind.ASSET, "lamp", registered, AssetLockTaken(auction_id=uid("sale")))
    return world.given(Kind.AUCTION, "sale", auction or created())


def bid(name: str, amount_minor: int, *, cell: str = HERE, auction: str = "sale") -> PlaceBid:
    return PlaceBid(auction_id=uid(auction), auction_cell=cell, bidder_id=uid(name), amount=usd(amount_minor))


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


def remote_bid(amount_minor: int, name: str = "rob") -> BidPlaced:
    return BidPlaced(
        bid_id=uid(f"{name}-{amount_minor}"),
        bidder_id=uid(name),
        bidder_cell=THERE,
        currency="USD",
        amount_minor=amount_minor,
        end_time_ms=END_MS,
    )


def auction(world: World, auction_id: str | UUID = "sale") -> Auction:
    state = world.state(Kind.AUCTION, auction_id)
    assert isinstance(state, Auction)
    return state


def test_an_asset_is_registered_and_locked_by_its_auction() -> None:
    """The auction takes the lock in the same decision, and a second auction is refused."""
    world = World(cell=HERE)
    made = world.decided(RegisterAsset(owner_id=uid("sue"), owner_cell=THERE, description="a lamp"))
    assert isinstance(made.result, NewAsset)
    asset_id = made.result.asset_id
    command = opening(asset_id)
    opened = world.decided(command)
    assert isinstance(opened.result, NewAuction)
    auction_id = opened.result.auction_id
    asset = world.state(Kind.ASSET, asset_id)
    assert isinstance(asset, Asset)
    assert asset.locked_by == auction_id
    assert auction(world, auction_id).seller_cell == THERE
    with pytest.raises(refusals.AssetLocked):
        world.when(command)


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"asset_id": uid("nothing")}, refusals.AssetNotFound),
        ({"seller_id": uid("ann")}, refusals.NotTheOwner),
        ({"end_time_ms": NOON_MS}, refusals.EndTimeInPast),
        ({"end_time_ms": NOON_MS + 366 * 86_400_000 + 1}, refusals.TimeTooFar),
    ],
)
def test_an_auction_needs_an_asset_its_owner_and_a_future(
    changes: dict[str, object], refusal: type[refusals.Refused]
) -> None:
    """The refusal names what is missing, and the asset stays free."""
    world = World(cell=HERE).given(
        Kind.ASSET, "lamp", AssetRegistered(owner_id=uid("sue"), owner_cell=HERE, description="a lamp")
    )
    command = opening()
    with pytest.raises(refusal):
        world.when(replace(command, **changes))  # type: ignore[arg-type]


def test_a_bid_reserves_and_the_outbid_one_is_released_in_the_same_decision() -> None:
    """BID_PLACED causes FUNDS_RESERVED and the other bidder's FUNDS_RELEASED."""
    world = market()
    world.when(bid("ann", 100))
    decision = world.decided(bid("ben", 110))
    kinds = [type(uncommitted.event) for uncommitted in decision.uncommitted]
    assert kinds == [BidPlaced, FundsReserved, FundsReleased]
    assert {uncommitted.caused_by for uncommitted in decision.uncommitted[1:]} == {decision.uncommitted[0].event_id}
    assert world.money("ann") == (1_000, 0, 0)
    assert world.money("ben") == (890, 110, 0)


def test_a_raise_of_ones_own_bid_reserves_the_difference() -> None:
    """A bidder may raise up to all of their money: the hold grows and is not taken twice."""
    world = market()
    world.when(bid("ann", 600))
    assert [type(event) for event in world.when(bid("ann", 1_000))] == [BidPlaced, FundsReserved]
    assert world.money("ann") == (0, 1_000, 0)
    world.given(Kind.ACCOUNT, "ben", Deposited(currency="USD", amount_minor=500, external_reference="more"))
    world.when(bid("ben", 1_010))
    assert world.money("ann") == (1_000, 0, 0)


@pytest.mark.parametrize(
    ("command", "refusal"),
    [
        (bid("ann", 99), refusals.BidTooLow),
        (bid("ann", 1_001), refusals.InsufficientFunds),
        (bid("sue", 500), refusals.BidOnOwnAuction),
        (bid("eve", 500), refusals.UserNotFound),
        (bid("ann", 500, auction="other"), refusals.AuctionNotFound),
        (replace(bid("ann", 500), amount=Money("EUR", 500)), refusals.WrongCurrency),
    ],
)
def test_a_bid_that_may_not_be_is_refused(command: PlaceBid, refusal: type[refusals.Refused]) -> None:
    """Each reason has its own refusal, and nothing is reserved."""
    world = market()
    before = len(world.log)
    with pytest.raises(refusal):
        world.when(command)
    assert len(world.log) == before


def test_a_bid_must_pass_the_highest_by_the_increment() -> None:
    """The checks come in order: too low is reported before the lack of funds."""
    world = market()
    world.when(bid("ann", 1_000))
    with pytest.raises(refusals.BidTooLow) as refused:
        world.when(bid("ben", 1_009))
    assert refused.value.facts["least_minor"] == 1_010
    with pytest.raises(refusals.InsufficientFunds):
        world.when(bid("ben", 1_010))


def test_bidding_ends_at_the_end_time_whether_or_not_the_timer_has_fired() -> None:
    """The deciding batch's time counts; a timer that fires before the end does nothing."""
    world = market()
    assert world.when(CloseAuction(auction_id=uid("sale"), by_command=False)) == []
    world.now_ms = END_MS
    with pytest.raises(refusals.AuctionNotActive):
        world.when(bid("ann", 500))
    events = world.when(CloseAuction(auction_id=uid("sale"), by_command=False))
    assert [type(event) for event in events] == [AuctionClosed, AssetLockReleased]
    assert auction(world).state is AuctionState.UNSOLD


def test_a_late_bid_moves_the_end_where_the_auction_says_so() -> None:
    """Anti-sniping: a bid within the extension of the end leaves that much time after itself."""
    world = market(created(extension_ms=10_000))
    world.when(bid("ann", 100))
    assert auction(world).end_time_ms == END_MS
    world.now_ms = END_MS - 1
    world.when(bid("ben", 110))
    assert auction(world).end_time_ms == END_MS - 1 + 10_000


def test_closing_with_a_winner_starts_the_settlement_in_the_same_decision() -> None:
    """The close causes the saga's start, which fixes the fee."""
    world = market()
    world.when(bid("ann", 1_000))
    decision = world.decided(CloseAuction(auction_id=uid("sale"), by_command=True))
    closed, started = decision.uncommitted
    assert isinstance(closed.event, AuctionClosed)
    assert isinstance(started.event, SagaStarted)
    assert isinstance(started.event.facts, SettlementFacts)
    assert started.event.facts.fee_minor == 25
    assert started.caused_by == closed.event_id
    assert started.correlation_id == started.aggregate.id == closed.event.saga_id
    assert auction(world).state is AuctionState.SETTLING
    with pytest.raises(refusals.AuctionNotActive):
        world.when(CloseAuction(auction_id=uid("sale"), by_command=True))
    with pytest.raises(refusals.AuctionNotActive):
        world.when(bid("ben", 1_000))


def test_cancelling_frees_the_leader_and_the_asset() -> None:
    """There is no sale, no hold and no lock."""
    world = market()
    world.when(bid("ann", 400))
    events = world.when(CancelAuction(auction_id=uid("sale")))
    assert [type(event) for event in events] == [AuctionCancelled, AssetLockReleased, FundsReleased]
    assert world.money("ann") == (1_000, 0, 0)
    with pytest.raises(refusals.AuctionNotActive):
        world.when(CancelAuction(auction_id=uid("sale")))


def test_an_outbid_remote_bidder_is_released_by_a_saga() -> None:
    """Their home cell has the hold: this cell durably promises to release it."""
    world = market().given(Kind.AUCTION, "sale", remote_bid(100))
    started = world.when(bid("ann", 110))[-1]
    assert isinstance(started, SagaStarted)
    assert isinstance(started.facts, ReleaseFacts)
    assert started.facts.bid_id == uid("rob-100")
    assert started.deadline_ms is None


def test_a_bid_into_another_cell_is_reserved_at_home_and_answered_by_its_saga() -> None:
    """The home reserves and starts the saga in one decision; the command stays in progress."""
    world = market()
    decision = world.decided(bid("ann", 700, cell=THERE))
    started, reserved, progress = (uncommitted.event for uncommitted in decision.uncommitted)
    assert isinstance(started, SagaStarted)
    assert isinstance(started.facts, RemoteBidFacts)
    assert isinstance(reserved, FundsReserved)
    assert isinstance(progress, SagaLegCompleted)
    assert decision.awaits_saga == decision.uncommitted[0].aggregate.id
    assert started.deadline_ms == NOON_MS + world.policy.bid_valid_ms
    assert world.money("ann") == (300, 700, 0)
    with pytest.raises(refusals.InsufficientFunds):
        world.when(bid("ann", 301, cell=THERE, auction="another"))


def test_a_hold_is_in_one_currency() -> None:
    """A bid in another currency is refused while it lasts: its release would free 700 US dollars as euros."""
    world = market()
    world.when(bid("ann", 700, cell=THERE))
    for amount_minor in (100, 900):
        with pytest.raises(refusals.HeldInAnotherCurrency, match="USD is held"):
            world.when(replace(bid("ann", 1, cell=THERE), amount=Money("EUR", amount_minor)))
    assert world.money("ann") == (300, 700, 0)


def test_a_hold_is_for_the_auction_of_one_cell() -> None:
    """A winner would get out of paying by a bid under the auction's id elsewhere, and a hold of a sale by one on it."""
    world = market()
    world.when(bid("ann", 700))
    held = world.decided(Reserve(user_id=uid("ann"), amount=usd(100), expire_time_ms=None)).result
    assert isinstance(held, NewHold)
    for auction_id in (uid("sale"), held.hold_id):
        with pytest.raises(refusals.AuctionNotFound):
            world.when(replace(bid("ann", 800, cell=THERE), auction_id=auction_id))
    state = world.state(Kind.ACCOUNT, "ann")
    assert isinstance(state, Account)
    assert state.holds[uid("sale")].auction_cell == HERE
    assert world.money("ann") == (200, 800, 0)


def test_a_remote_raise_reserves_only_the_difference() -> None:
    """A hold is the maximum over the bids that lead or are unresolved."""
    world = market()
    world.when(bid("ann", 700, cell=THERE))
    world.when(bid("ann", 900, cell=THERE))
    world.when(bid("ann", 800, cell=THERE))
    assert world.money("ann") == (100, 900, 0)
