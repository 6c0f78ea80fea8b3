"""Maximum bids: the auction bids for the leader, as little as leads, and never more than the maximum."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cells.domain import refusals
from cells.domain.account.account import Account
from cells.domain.auction.auction import Auction, Bid
from cells.domain.commands import ApplyLeg, CloseAuction, PinHold, PlaceBid, SendToEscrow, SubmitBid
from cells.domain.events import BidPlaced, BidRaised, EscrowSent, FundsReleased, FundsReserved, HoldPinned
from cells.domain.record import replace
from cells.domain.sagas.saga_events import ReleaseFacts, RemoteBidFacts, SagaStarted, SettlementFacts
from cells.domain.values import AMOUNT_MAX_MINOR, Kind, Money
from tests.unit.given import World, apply_leg, kinds, only, uid, usd
from tests.unit.sales import END_MS, HERE, THERE, bid, highest_bid, market, remote_bid

INCREMENT = 10


def leading(world: World) -> tuple[str, int]:
    """The leading bidder, and the amount that they bid."""
    highest = highest_bid(world)
    return next(name for name in ("ann", "ben", "rob") if uid(name) == highest.bidder_id), highest.amount_minor


def test_a_first_maximum_bids_the_opening_price_and_holds_all_of_it() -> None:
    """Nobody else bids, so nobody else is to be beaten; the money is there for the raises to come."""
    world = market()
    assert kinds(world.when(bid("ann", 50, 800))) == [BidPlaced, FundsReserved]
    assert leading(world) == ("ann", 100)
    assert world.money("ann") == (200, 800, 0)


def test_the_leaders_maximum_answers_a_lower_bid_in_the_same_decision() -> None:
    """Ben's bid is accepted, Ann's is an increment above it, and Ben's money is free again."""
    world = market(bid("ann", 100, 800))
    placed, reserved, raised, released = made = world.decided(bid("ben", 300)).uncommitted
    assert kinds(each.event for each in made) == [BidPlaced, FundsReserved, BidRaised, FundsReleased]
    assert reserved.caused_by == raised.caused_by == placed.event_id
    assert released.caused_by == raised.event_id
    assert leading(world) == ("ann", 310)
    assert (world.money("ann"), world.money("ben")) == ((200, 800, 0), (1_000, 0, 0))
    assert world.the(Auction, "sale").bids_accepted == 2


@pytest.mark.parametrize(
    ("maximum", "amount", "least", "leads"),
    [
        # The leader has 500 and stands at 100.
        (499, 110, 0, ("ann", 500)),
        (490, 110, 0, ("ann", 500)),
        (480, 110, 0, ("ann", 490)),
        # The earlier of two equals leads, at its maximum.
        (500, 110, 0, ("ann", 500)),
        (501, 110, 0, ("ben", 501)),
        (600, 110, 0, ("ben", 510)),
        # Ben has asked to bid as much at once.
        (600, 550, 0, ("ben", 550)),
        # The first amount may have been overtaken: the maximum counts.
        (110, 1, 0, ("ann", 120)),
        (109, 1, 110, ("ann", 100)),
    ],
)
def test_the_higher_maximum_leads(maximum: int, amount: int, least: int, leads: tuple[str, int]) -> None:
    """At an increment above the lower one, as far as it goes."""
    world = market(bid("ann", 100, 500))
    if least:
        facts = world.refuses(bid("ben", amount, maximum), refusals.BidTooLow)
        assert facts == {"amount_minor": maximum, "least_minor": least, "currency": "USD"}
    else:
        world.when(bid("ben", amount, maximum))
    assert leading(world) == leads
    held = {"ann": 500, "ben": maximum}[leads[0]]
    loser = {"ann": "ben", "ben": "ann"}[leads[0]]
    assert (world.money(leads[0]), world.money(loser)) == ((1_000 - held, held, 0), (1_000, 0, 0))


def test_a_leader_who_raises_the_maximum_bids_no_more_than_before() -> None:
    """The hold grows by the difference, and the old bid is part of the new one."""
    world = market(bid("ann", 100, 500))
    assert kinds(world.when(bid("ann", 1, 700))) == [BidPlaced, FundsReserved]
    assert (leading(world), world.money("ann")) == (("ann", 100), (300, 700, 0))
    world.when(bid("ben", 600))
    assert leading(world) == ("ann", 610)
    world.when(bid("ann", 800))
    assert (leading(world), world.money("ann")) == (("ann", 800), (200, 800, 0))


@pytest.mark.parametrize("again", [bid("ann", 500), bid("ann", 490), bid("ann", 100, 500), bid("ann", 300, 400)])
def test_a_leader_cannot_lower_the_maximum(again: PlaceBid) -> None:
    """What was offered stays offered, like any bid."""
    world = market(bid("ann", 100, 500))
    assert world.refuses(again, refusals.BidTooLow)["least_minor"] == 501


def test_the_whole_maximum_must_be_there() -> None:
    """A raise later never lacks money; nor may a loser push the price up without it."""
    world = market()
    world.refuses(bid("ann", 100, 1_001), refusals.InsufficientFunds)
    world.when(bid("ann", 100, 1_000))
    world.when(bid("ben", 100, 300))
    world.refuses(bid("ben", 1_001), refusals.InsufficientFunds)
    assert leading(world) == ("ann", 310)


@pytest.mark.parametrize(
    ("maximum", "field"), [(usd(99), "maximum.amount_minor"), (Money("EUR", 500), "maximum.currency")]
)
@pytest.mark.parametrize("cell", [HERE, THERE])
def test_a_maximum_is_at_least_the_bid_and_in_its_currency(maximum: Money, field: str, cell: str) -> None:
    """Refused before anything is reserved, in whichever cell the auction is."""
    wanted = replace(bid("ann", 100, cell=cell), maximum=maximum)
    assert market().refuses(wanted, refusals.FieldInvalid)["field"] == field


def test_a_raise_near_the_end_extends_the_auction_once() -> None:
    """By the bid that is answered, to the same end."""
    world = market(bid("ann", 100, 500), extension_ms=10_000)
    world.now_ms = END_MS - 1
    events = world.when(bid("ben", 300))
    ends = {only(BidPlaced, events).end_time_ms, only(BidRaised, events).end_time_ms}
    assert ends == {world.the(Auction, "sale").end_time_ms} == {END_MS - 1 + 10_000}


def test_a_leader_does_not_keep_the_auction_open_by_raising_the_maximum() -> None:
    """A cent more of a maximum costs nothing if nobody else bids; a higher price does, and extends it as ever."""
    world = market(bid("ann", 100, 500), extension_ms=10_000)
    world.now_ms = END_MS - 1
    for again in (bid("ann", 100, 501), bid("ann", 101, 502)):
        placed = only(BidPlaced, world.when(again))
        assert placed.end_time_ms == world.the(Auction, "sale").end_time_ms == END_MS
    world.when(bid("ann", 111, 503))
    assert world.the(Auction, "sale").end_time_ms == END_MS - 1 + 10_000


def test_the_largest_amount_is_no_obstacle_to_a_raise() -> None:
    """An increment above it would be more than 64 bits: the maximum is as far as it goes."""
    world = market().given(Kind.AUCTION, "sale", remote_bid(AMOUNT_MAX_MINOR - 5, AMOUNT_MAX_MINOR))
    bens = Bid(bid_id=uid("b"), bidder_id=uid("ben"), bidder_cell=HERE, amount_minor=AMOUNT_MAX_MINOR - 1)
    answer = world.the(Auction, "sale").answer_to(bens)
    assert answer is not None
    assert answer.amount_minor == AMOUNT_MAX_MINOR
    world.refuses(bid("ben", 1_000), refusals.BidTooLow)


# --- across cells -----------------------------------------------------------------------------------------------------


def submitted(amount_minor: int, maximum_minor: int | None = None, *, bidder: str = "rob") -> ApplyLeg:
    """The bid of a user of another cell; of Ann, if that cell says that she is at home there: she moved, or it lies."""
    action = SubmitBid(
        auction_id=uid("sale"),
        bid_id=uid("rob-bid"),
        bidder_id=uid(bidder),
        bidder_cell=THERE,
        amount=usd(amount_minor),
        valid_until_ms=END_MS,
        maximum=usd(maximum_minor) if maximum_minor else None,
    )
    return apply_leg(uid(f"saga of {amount_minor}"), "submit", action, THERE, sent_ms=0)


def test_a_maximum_in_another_cell_is_held_at_home_and_goes_along() -> None:
    """The home holds the maximum, so no raise in the other cell has to ask it for money."""
    started, reserved, _ = market().when(bid("ann", 100, 800, cell=THERE))
    facts = only(RemoteBidFacts, [only(SagaStarted, [started]).facts])
    assert (facts.amount, facts.maximum) == (usd(100), usd(800))
    hold = only(FundsReserved, [reserved])
    assert (hold.amount_minor, hold.bid_minor) == (800, 800)


def test_a_remote_leaders_maximum_answers_a_local_bid() -> None:
    """Nothing is asked of the leader's home."""
    world = market(submitted(100, 800))
    assert kinds(world.when(bid("ann", 300))) == [BidPlaced, FundsReserved, BidRaised, FundsReleased]
    assert leading(world) == ("rob", 310)


def test_a_remote_bid_that_is_answered_is_accepted_and_released_by_a_saga() -> None:
    """Its home is told as if somebody had bid after it."""
    world = market(bid("ann", 100, 800))
    events = world.when(submitted(300))
    assert kinds(events) == [BidPlaced, BidRaised, SagaStarted]
    facts = only(ReleaseFacts, [only(SagaStarted, events).facts])
    assert (facts.bid_id, facts.bidder_id) == (uid("rob-bid"), uid("rob"))
    assert leading(world) == ("ann", 310)


def test_the_winner_pays_the_price_and_gets_the_rest_back() -> None:
    """The settlement pins the hold of the maximum and takes the price out of it."""
    world = market(bid("ann", 100, 800), bid("ben", 300))
    started = only(SagaStarted, world.when(CloseAuction(auction_id=uid("sale"), by_command=True)))
    facts = only(SettlementFacts, [started.facts])
    assert facts.amount == usd(310)
    saga_id = world.log[-1][0].id
    of_bid = {"user_id": uid("ann"), "auction_id": uid("sale"), "bid_id": facts.bid_id}
    assert HoldPinned in kinds(world.when(apply_leg(saga_id, "pin", PinHold(**of_bid, amount=usd(310)), HERE)))
    send = SendToEscrow(**of_bid, amount=usd(310), to_cell=HERE, clearing_id=uid("clearing"))
    sent = only(EscrowSent, world.when(apply_leg(saga_id, "escrow-out", send, HERE)))
    assert (sent.amount_minor, sent.released_minor) == (310, 490)
    assert world.money("ann") == (690, 0, 0)


def test_a_settlement_takes_no_more_than_the_maximum() -> None:
    """Whatever the auction's cell asks for: the hold of a plain bid backs its amount, and that of a maximum itself."""
    (hold,) = market(bid("ann", 100, 800)).the(Account, "ann").holds.values()
    (bid_id,) = hold.bids_minor
    assert [hold.backs(bid_id, usd(amount)) for amount in (1, 800, 801)] == [True, True, False]
    assert not hold.backs(bid_id, Money("EUR", 1))
    assert not hold.backs(uid("another"), usd(1))


# --- in the name of the leader, by another cell ---------------------------------------------------------------------


@pytest.mark.parametrize("limit", [110, 799, 800])
def test_another_cell_is_not_told_the_maximum_by_a_bid_in_the_leaders_name(limit: int) -> None:
    """Up to the maximum it is answered, whatever it is; below the next bid the refusal names what everybody sees."""
    world = market(bid("ann", 100, 800))
    assert world.refuses(submitted(109, bidder="ann"), refusals.BidTooLow)["least_minor"] == 110
    assert kinds(world.when(submitted(1, limit, bidder="ann"))) == [BidPlaced, BidRaised, SagaStarted]
    assert (leading(world), world.money("ann")) == (("ann", 100), (200, 800, 0))


@pytest.mark.parametrize("limit", [300, 900])
def test_another_cell_does_not_bid_under_the_id_of_the_leading_bid(limit: int) -> None:
    """The release of its bid, sent on to the leader's home, would free the money of the bid that leads."""
    world = market(bid("ann", 100, 800))
    command = submitted(limit, bidder="ann")
    assert isinstance(command.action, SubmitBid)
    forged = replace(command, action=replace(command.action, bid_id=highest_bid(world).bid_id))
    assert world.refuses(forged, refusals.FieldInvalid)["field"] == "bid_id"


def test_a_leader_who_has_moved_does_not_bid_against_their_own_maximum() -> None:
    """A higher one takes the place of the old one at the same price; a lower bid raises the old one to what it says."""
    world = market(bid("ann", 100, 800), submitted(300, bidder="ann"))
    highest = highest_bid(world)
    assert (highest.amount_minor, highest.maximum_minor, highest.bidder_cell) == (300, 800, HERE)
    assert kinds(world.when(submitted(1, 900, bidder="ann"))) == [BidPlaced, FundsReleased]
    highest = highest_bid(world)
    assert (highest.amount_minor, highest.maximum_minor, highest.bidder_cell) == (300, 900, THERE)
    assert world.money("ann") == (1_000, 0, 0)


def test_a_leader_who_has_moved_here_has_one_hold_for_both_bids() -> None:
    """The old bid is released by its saga, which finds the new home."""
    world = market().given(Kind.AUCTION, "sale", remote_bid(100, 300, name="ann"))
    assert kinds(world.when(bid("ann", 100, 500))) == [BidPlaced, FundsReserved, SagaStarted]
    assert (leading(world), world.money("ann")) == (("ann", 100), (500, 500, 0))


# --- any number of bids -----------------------------------------------------------------------------------------------


@dataclass
class Model:
    """The rule in other words: two limits meet, and the lower one says what the higher one costs."""

    limits: dict[str, int] = field(default_factory=dict)
    leader: str = ""
    price: int = 90

    def takes(self, name: str, amount: int, limit: int) -> bool:
        before = self.limits.get(self.leader, 0)
        if limit < self.price + INCREMENT or (name == self.leader and limit <= before):
            return False
        self.limits[name] = limit
        if name == self.leader:
            self.price = max(self.price, amount)
            return True
        if not self.leader:
            self.leader, self.price = name, max(100, amount)
            return True
        dear = min(limit, before) + INCREMENT
        self.price = min(dear, max(limit, before))
        if limit > before:
            self.leader, self.price = name, max(amount, self.price)
        return True


@given(
    st.lists(
        st.tuples(st.sampled_from(["ann", "ben"]), st.integers(1, 60), st.none() | st.integers(0, 60)), max_size=12
    )
)
def test_the_auction_is_the_one_of_the_model(bids: list[tuple[str, int, int | None]]) -> None:
    """Leader, price and every cent that is held, after each bid; nobody is ever raised beyond their maximum."""
    world, model = market(), Model()
    for name, tens, more in bids:
        amount = 60 + tens * 3
        limit = None if more is None else amount + more * 3
        wanted = bid(name, amount, limit)
        if model.takes(name, amount, limit or amount):
            world.when(wanted)
        else:
            world.refuses(wanted, refusals.BidTooLow)
        if model.leader:
            assert leading(world) == (model.leader, model.price)
            assert model.price <= model.limits[model.leader]
        for each in ("ann", "ben"):
            held = model.limits[each] if each == model.leader else 0
            assert world.money(each) == (1_000 - held, held, 0)
