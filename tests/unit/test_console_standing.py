"""How the visitor's own bid stands: what its bidder is told, and nobody else."""

from collections.abc import Iterator
from unittest.mock import AsyncMock, Mock

import pytest

from cellbook.v1 import auction_pb2, ledger_pb2
from cellbook.v1.types_pb2 import Money
from server.cli.client import NoAnswer
from server.console.auctions import standing
from server.console.auctions.standing import Follower, Standing
from server.console.visitor import VISITOR
from server.shell.identity.principal import Role
from tests.unit.console_rig import as_visitor, visitor

ME, OTHER = "01890a5d-ac96-774b-bcce-b302099a8057", "01890a5d-ac96-774b-bcce-b302099a8058"
AUCTION = "cells/us-east/auctions/01890a5d-ac96-774b-bcce-b302099a8059"
ACTIVE, SETTLING = auction_pb2.AUCTION_STATE_ACTIVE, auction_pb2.AUCTION_STATE_SETTLING


@pytest.fixture(autouse=True)
def as_user() -> Iterator[None]:
    with as_visitor(Role.USER, ME):
        yield


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> AsyncMock:
    """Answers for the visitor's account: 80.00 for bid "a", and 90.00 for bids in another auction."""
    holds = [hold(AUCTION, 8_000, "a"), hold(f"{AUCTION}0", 9_000, "a")]
    once = AsyncMock(return_value=ledger_pb2.GetAccountResponse(holds=holds))
    home = Mock(client=Mock(once=once))
    monkeypatch.setattr(standing, "ledger_of", lambda _: Mock(home_of=AsyncMock(return_value=home)))
    return once


def hold(auction: str, amount_minor: int, *bid_ids: str) -> ledger_pb2.Hold:
    return ledger_pb2.Hold(auction=auction, amount=Money(currency="USD", amount_minor=amount_minor), bid_ids=bid_ids)


def led_by(bidder: str, bid_id: str = "a", state: "auction_pb2.AuctionState.ValueType" = ACTIVE) -> auction_pb2.Auction:
    bid = auction_pb2.Bid(bid_id=bid_id, bidder_user_id=bidder, amount=Money(currency="USD", amount_minor=100))
    return auction_pb2.Auction(name=AUCTION, state=state, highest_bid=bid)


async def test_a_leader_sees_the_maximum_and_is_told_once_outbid(account: AsyncMock) -> None:
    """The account is read once for each bid that leads, however often the auction raises it."""
    follower = Follower(Mock())
    assert await follower.standing(led_by(OTHER)) == Standing()
    for _ in range(3):
        assert await follower.standing(led_by(ME)) == Standing(leads=True, maximum_minor=8_000)
    assert await follower.standing(led_by(OTHER, "b")) == Standing(outbid=True)
    assert account.await_count == 1
    assert await follower.standing(led_by(ME, "c")) == Standing(leads=True)
    assert account.await_count == 2
    assert await follower.standing(led_by(ME, "c", SETTLING)) == Standing()


async def test_a_bid_that_was_answered_at_once_has_been_outbid(account: AsyncMock) -> None:
    """The page after the form knows that it was accepted."""
    assert await Follower(Mock(), has_bid=True).standing(led_by(OTHER)) == Standing(outbid=True)
    assert account.await_count == 0


async def test_what_is_held_for_a_further_bid_too_is_no_maximum(account: AsyncMock) -> None:
    """It is not decided yet. Nor is there one while the home does not answer: that the bid leads is said."""
    account.return_value = ledger_pb2.GetAccountResponse(holds=[hold(AUCTION, 9_000, "a", "b")])
    assert await Follower(Mock()).standing(led_by(ME)) == Standing(leads=True)
    account.side_effect = NoAnswer("us-east")
    assert await Follower(Mock()).standing(led_by(ME)) == Standing(leads=True)


@pytest.mark.parametrize("role", [Role.SERVICE, Role.AUDITOR, Role.SUPPORT, Role.DELEGATE])
async def test_nobody_else_has_a_standing(account: AsyncMock, role: Role) -> None:
    """Not under the bidder's name either."""
    VISITOR.set(visitor(role, ME))
    assert await Follower(Mock(), has_bid=True).standing(led_by(ME)) == Standing()
    assert account.await_count == 0
