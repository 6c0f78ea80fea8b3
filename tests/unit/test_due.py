"""Time decides, not the timer: every rule uses the time of its batch, whether or not the timer has fired."""

import pytest

from cells.domain import commands
from cells.domain.account.account import Account
from cells.domain.due import without_expired
from cells.domain.events import AssetLockReleased, AssetLockTaken, AuctionClosed, AuctionCreated, FundsReleased
from cells.domain.refusals import AssetLocked, AuctionNotActive, HoldExpired, InsufficientFunds
from cells.domain.sagas.saga_refusals import SagaOverdue
from cells.domain.values import Kind
from tests.unit.given import NOON_MS, World, apply_leg, kinds, only, reserved, uid, usd
from tests.unit.saga_market import Market
from tests.unit.sales import END_MS, HERE, THERE, bid, market, opening, remote_bid

LATER_MS = NOON_MS + 1_000


def holding() -> World:
    """Ann has 1,000, of which 400 and 500 are held until then, and 100 for a second more."""
    holds = (
        reserved(100, "late", expire_time_ms=LATER_MS + 1_000),
        reserved(500, "second", expire_time_ms=LATER_MS),
        reserved(400, "first", expire_time_ms=LATER_MS - 1),
    )
    return market().given(Kind.ACCOUNT, "ann", *holds)


def spending(amount_minor: int) -> dict[str, commands.Command]:
    amount, ann = usd(amount_minor), uid("ann")
    reserve = commands.ReserveForBid(user_id=ann, auction_id=uid("there"), bid_id=uid("bid"), amount=amount)
    return {
        "withdraw": commands.Withdraw(user_id=ann, amount=amount, external_reference="atm-1"),
        "transfer": commands.Transfer(from_user_id=ann, to_user_id=uid("ben"), amount=amount),
        "remote transfer": commands.Transfer(from_user_id=ann, to_user_id=uid("rob"), amount=amount, to_cell=THERE),
        "reserve": commands.Reserve(user_id=ann, amount=amount, expire_time_ms=None),
        "bid": bid("ann", amount_minor),
        "remote bid": bid("ann", amount_minor, cell=THERE, auction="there"),
        "leg": apply_leg(uid("saga"), "reserve", reserve, HERE),
    }


@pytest.mark.parametrize("what", spending(1))
def test_a_hold_whose_time_has_come_holds_nothing(what: str) -> None:
    """The money is available to any command: as many holds as needed are first released, in the same decision."""
    world = holding()
    world.refuses(spending(100)[what], InsufficientFunds)
    world.now_ms = LATER_MS
    released = [event for event in world.when(spending(450)[what]) if isinstance(event, FundsReleased)]
    assert [event.hold_id for event in released] == [uid("first"), uid("second")]
    assert world.money("ann")[0] == 450


def test_what_is_not_due_stays_held() -> None:
    """Nothing is released for a command that is refused anyway."""
    world = holding()
    world.now_ms = LATER_MS
    world.refuses(spending(901)["withdraw"], InsufficientFunds)
    account = world.the(Account, "ann")
    assert len(account.holds) == 3
    shown = without_expired(account, LATER_MS)
    assert (shown.balance("USD").available_minor, shown.balance("USD").reserved_minor) == (900, 100)
    assert without_expired(account, NOON_MS) == account


def test_a_hold_whose_time_has_come_is_nobodys_to_take_or_release() -> None:
    """As if its timer had fired."""
    world = holding()
    world.now_ms = LATER_MS
    held = {"user_id": uid("ann"), "hold_id": uid("second")}
    world.refuses(commands.Capture(**held, to_user_id=uid("ben"), amount_minor=None), HoldExpired)
    world.refuses(commands.Release(**held), HoldExpired)


@pytest.mark.parametrize("bids", [0, 1])
def test_an_auction_that_has_ended_is_not_cancelled(bids: int) -> None:
    """With or without a winner: it ended at its end time."""
    world = market().given(Kind.AUCTION, "sale", *[remote_bid(100)] * bids)
    world.now_ms = END_MS
    world.refuses(commands.CancelAuction(auction_id=uid("sale")), AuctionNotActive, "ENDED")
    closed = only(AuctionClosed, world.when(commands.CloseAuction(auction_id=uid("sale"), by_command=True)))
    assert closed.closed_by == "TIME"


def test_an_asset_is_free_once_its_auction_has_ended_without_a_bid() -> None:
    """It can be offered again at once: the same decision closes the old auction. With a bid, it must be settled."""
    unsold, sold = market(), market().given(Kind.AUCTION, "sale", remote_bid(100))
    again = opening(end_time_ms=END_MS + 60_000)
    unsold.refuses(again, AssetLocked)
    unsold.now_ms = sold.now_ms = END_MS
    assert kinds(unsold.when(again)) == [AuctionClosed, AssetLockReleased, AuctionCreated, AssetLockTaken]
    sold.refuses(again, AssetLocked)


def test_a_saga_is_not_taken_further_after_its_deadline() -> None:
    """A leg of this cell that waited too long for its batch is not taken: the saga compensates."""
    there = Market()
    saga_id = there.bid(700)
    world, saga = there.saga(saga_id)
    assert saga.deadline_ms is not None
    action = commands.ReserveForBid(
        user_id=uid("ann"), auction_id=uid("sale"), bid_id=uid("x"), amount=usd(1), auction_cell=THERE
    )
    late = apply_leg(saga_id, "submit", action, HERE)
    world.now_ms = saga.deadline_ms
    world.refuses(late, SagaOverdue)
    world.now_ms -= 1
    assert world.when(late)
