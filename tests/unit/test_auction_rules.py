"""Assets and auctions in one cell: given events, when a command, then events or a refusal."""

from collections.abc import Sequence

import pytest

from cells.domain import refusals
from cells.domain.account.account import Account
from cells.domain.auction.asset import Asset
from cells.domain.auction.auction import Auction, AuctionState
from cells.domain.commands import CancelAuction, CloseAuction, Command, RegisterAsset, Reserve
from cells.domain.events import (
    AssetLockReleased,
    AssetRegistered,
    AuctionCancelled,
    AuctionClosed,
    BidPlaced,
    FundsReleased,
    FundsReserved,
)
from cells.domain.record import replace
from cells.domain.results import NewAsset, NewAuction, NewHold
from cells.domain.sagas.saga_events import ReleaseFacts, RemoteBidFacts, SagaLegCompleted, SagaStarted, SettlementFacts
from cells.domain.values import Kind, Money
from tests.unit.given import NOON_MS, World, deposited, kinds, only, uid, usd
from tests.unit.sales import END_MS, HERE, THERE, bid, market, opening, remote_bid

CLOSE = CloseAuction(auction_id=uid("sale"), by_command=True)
CANCEL = CancelAuction(auction_id=uid("sale"))
# The timer has fired.
DUE = CloseAuction(auction_id=uid("sale"), by_command=False)


def euros(amount_minor: int, cell: str = HERE) -> Command:
    return replace(bid("ann", 1, cell=cell), amount=Money("EUR", amount_minor))


def test_an_asset_is_registered_and_locked_by_its_auction() -> None:
    """The auction takes the lock in the same decision, and a second auction is refused."""
    world = World(cell=HERE)
    made = world.decided(RegisterAsset(owner_id=uid("sue"), owner_cell=THERE, description="a lamp"))
    assert isinstance(made.result, NewAsset)
    command = opening(made.result.asset_id)
    opened = world.decided(command)
    assert isinstance(opened.result, NewAuction)
    auction_id = opened.result.auction_id
    assert world.the(Asset, made.result.asset_id).locked_by == auction_id
    assert world.the(Auction, auction_id).seller_cell == THERE
    world.refuses(command, refusals.AssetLocked)


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
    registered = AssetRegistered(owner_id=uid("sue"), owner_cell=HERE, description="a lamp")
    world = World(cell=HERE).given(Kind.ASSET, "lamp", registered)
    world.refuses(replace(opening(), **changes), refusal)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "command", "refusal", "match"),
    [
        ([], bid("ann", 99), refusals.BidTooLow, "."),
        ([], bid("ann", 1_001), refusals.InsufficientFunds, "."),
        ([], bid("sue", 500), refusals.BidOnOwnAuction, "."),
        ([], bid("eve", 500), refusals.UserNotFound, "."),
        ([], bid("ann", 500, auction="other"), refusals.AuctionNotFound, "."),
        ([], euros(500), refusals.WrongCurrency, "."),
        # The highest bid must be passed by the increment; too low is reported before the lack of funds.
        ([bid("ann", 1_000)], bid("ben", 1_009), refusals.BidTooLow, "bid, 1010 USD"),
        ([bid("ann", 1_000)], bid("ben", 1_010), refusals.InsufficientFunds, "."),
        # What is held for a bid in another cell is not there for a second one.
        ([bid("ann", 700, cell=THERE)], bid("ann", 301, cell=THERE, auction="x"), refusals.InsufficientFunds, "."),
        # A hold is in one currency: else its release would free 700 US dollars as euros.
        ([bid("ann", 700, cell=THERE)], euros(100, THERE), refusals.HeldInAnotherCurrency, "USD is held"),
        ([bid("ann", 700, cell=THERE)], euros(900, THERE), refusals.HeldInAnotherCurrency, "USD is held"),
        ([bid("ann", 1_000), CLOSE], CLOSE, refusals.AuctionNotActive, "."),
        ([bid("ann", 1_000), CLOSE], bid("ben", 1_000), refusals.AuctionNotActive, "."),
        ([bid("ann", 400), CANCEL], CANCEL, refusals.AuctionNotActive, "."),
    ],
)
def test_a_command_that_is_not_allowed_is_refused(
    before: Sequence[Command], command: Command, refusal: type[refusals.Refused], match: str
) -> None:
    """Each reason has its own refusal, and nothing is reserved."""
    market(*before).refuses(command, refusal, match)


def test_a_bid_reserves_and_the_outbid_one_is_released_in_the_same_decision() -> None:
    """BID_PLACED causes FUNDS_RESERVED and the other bidder's FUNDS_RELEASED."""
    world = market(bid("ann", 100))
    placed, *effects = world.decided(bid("ben", 110)).uncommitted
    assert kinds(each.event for each in (placed, *effects)) == [BidPlaced, FundsReserved, FundsReleased]
    assert {each.caused_by for each in effects} == {placed.event_id}
    assert (world.money("ann"), world.money("ben")) == ((1_000, 0, 0), (890, 110, 0))


def test_a_raise_of_ones_own_bid_reserves_the_difference() -> None:
    """A bidder may raise up to all of their money: the hold grows and is not taken twice."""
    world = market(bid("ann", 600))
    assert kinds(world.when(bid("ann", 1_000))) == [BidPlaced, FundsReserved]
    assert world.money("ann") == (0, 1_000, 0)
    world.given(Kind.ACCOUNT, "ben", deposited(500, "more")).when(bid("ben", 1_010))
    assert world.money("ann") == (1_000, 0, 0)


def test_a_remote_raise_reserves_only_the_difference() -> None:
    """A hold is the maximum over the bids that lead or are unresolved."""
    world = market(*(bid("ann", amount, cell=THERE) for amount in (700, 900, 800)))
    assert world.money("ann") == (100, 900, 0)


def test_bidding_ends_at_the_end_time_whether_or_not_the_timer_has_fired() -> None:
    """The deciding batch's time counts; a timer that fires before the end does nothing."""
    world = market()
    assert world.when(DUE) == []
    world.now_ms = END_MS
    world.refuses(bid("ann", 500), refusals.AuctionNotActive)
    assert kinds(world.when(DUE)) == [AuctionClosed, AssetLockReleased]
    assert world.the(Auction, "sale").state is AuctionState.UNSOLD


def test_a_late_bid_moves_the_end_where_the_auction_says_so() -> None:
    """Anti-sniping: a bid within the extension of the end leaves that much time after itself."""
    world = market(bid("ann", 100), extension_ms=10_000)
    assert world.the(Auction, "sale").end_time_ms == END_MS
    world.now_ms = END_MS - 1
    world.when(bid("ben", 110))
    assert world.the(Auction, "sale").end_time_ms == END_MS - 1 + 10_000


def test_closing_with_a_winner_starts_the_settlement_in_the_same_decision() -> None:
    """The close causes the saga's start, which fixes the fee."""
    world = market(bid("ann", 1_000))
    closed, started = world.decided(CLOSE).uncommitted
    assert isinstance(closed.event, AuctionClosed)
    assert isinstance(started.event, SagaStarted)
    assert only(SettlementFacts, [started.event.facts]).fee_minor == 25
    assert started.caused_by == closed.event_id
    assert started.correlation_id == started.aggregate.id == closed.event.saga_id
    assert world.the(Auction, "sale").state is AuctionState.SETTLING


def test_cancelling_frees_the_leader_and_the_asset() -> None:
    """There is no sale, no hold and no lock."""
    world = market(bid("ann", 400))
    assert kinds(world.when(CANCEL)) == [AuctionCancelled, AssetLockReleased, FundsReleased]
    assert world.money("ann") == (1_000, 0, 0)


def test_an_outbid_remote_bidder_is_released_by_a_saga() -> None:
    """Their home cell has the hold: this cell durably promises to release it."""
    started = only(SagaStarted, market().given(Kind.AUCTION, "sale", remote_bid(100)).when(bid("ann", 110)))
    assert only(ReleaseFacts, [started.facts]).bid_id == uid("rob-bid")
    assert started.deadline_ms is None


def test_a_bid_into_another_cell_is_reserved_at_home_and_answered_by_its_saga() -> None:
    """The home reserves and starts the saga in one decision; the command stays in progress."""
    world = market()
    decision = world.decided(bid("ann", 700, cell=THERE))
    events = [each.event for each in decision.uncommitted]
    assert kinds(events) == [SagaStarted, FundsReserved, SagaLegCompleted]
    started = only(SagaStarted, events)
    assert isinstance(started.facts, RemoteBidFacts)
    assert decision.awaits_saga == decision.uncommitted[0].aggregate.id
    assert started.deadline_ms == NOON_MS + world.policy.bid_valid_ms
    assert world.money("ann") == (300, 700, 0)


def test_a_hold_is_for_the_auction_of_one_cell() -> None:
    """A winner would get out of paying by a bid under the auction's id elsewhere, and a hold of a sale by one on it."""
    world = market(bid("ann", 700))
    held = world.decided(Reserve(user_id=uid("ann"), amount=usd(100), expire_time_ms=None)).result
    assert isinstance(held, NewHold)
    for auction_id in (uid("sale"), held.hold_id):
        world.refuses(replace(bid("ann", 800, cell=THERE), auction_id=auction_id), refusals.AuctionNotFound)
    assert world.the(Account, "ann").holds[uid("sale")].auction_cell == HERE
    assert world.money("ann") == (200, 800, 0)
