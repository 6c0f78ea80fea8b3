"""One cell is hostile: whoever has its certificate calls every RPC for peers with any content (docs/security.md).

The calls come from outside, over gRPC, as the peer eu-west. What it may and what it may not is held here line by line.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID, uuid4

import pytest

from cellbook.v1 import settlement_pb2
from cells.domain import commands
from cells.domain.record import replace
from cells.domain.values import Money
from server.process.clock import STAMP_KEY, VECTOR_KEY
from tests.integration.sagas.hostile_rig import THIRD, THIRD_PEER, USD, apply, arrival, leg_of, undo
from tests.integration.services_rig import HERE, PEER, THERE, Pairs, Rig, refusal_of
from tests.local_cells import deposit, open_auction, request, until


def saying(rig: Rig, vector: str) -> Pairs:
    """The hostile cell's metadata, with that vector clock."""
    stamp = rig.cell.time.hlc.last
    return (*PEER, (STAMP_KEY, str(stamp.pack())), (VECTOR_KEY, vector))


# --- positions -------------------------------------------------------------------------------------------------------


async def test_a_position_of_a_third_cell_goes_into_no_log(rig: Rig) -> None:
    """Nor that of a cell that there is not; what it says of itself does."""
    vector = f"{THIRD}={2**62},{THERE}=9,mars=1"
    await rig.ask("ListAuctions", by=saying(rig, vector))
    await rig.cell.execute(request(deposit(rig.ann)))
    assert json.loads(rig.store.log[-1].vector_clock) == {HERE: len(rig.store.log), THERE: 9}


async def test_a_claim_about_this_log_stops_nobody_but_who_claims(rig: Rig) -> None:
    """The hostile cell is refused, the alarm is raised, and everybody else is served as before."""
    refused = await refusal_of(rig.ask("ListAuctions", by=saying(rig, f"{HERE}={2**62}")))
    assert (refused.reason, refused.final) == ("BEYOND_HEAD", False)
    await until(lambda: rig.cell.time.disputed == {THERE: 2**62})
    await rig.cell.execute(request(deposit(rig.ann)))
    assert not rig.cell.time.lost


# --- legs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Market:
    """An auction of ann's in the attacked cell, with a bid of ben's that leads."""

    rig: Rig
    auction_id: UUID
    asset_id: UUID
    bid_id: UUID

    @property
    def auction(self) -> str:
        return f"cells/{HERE}/auctions/{self.auction_id}"


@pytest.fixture
async def market(rig: Rig) -> Market:
    name = await rig.auction()
    bid = await rig.bid(name, rig.ben, USD.amount_minor)
    auction_id = UUID(name.rpartition("/")[2])
    asset_id = (await rig.cell.auction(auction_id)).state.asset_id
    return Market(rig=rig, auction_id=auction_id, asset_id=asset_id, bid_id=UUID(bid.bid_id))


class Attack(NamedTuple):
    leg: str
    action: Callable[[Market], commands.LegAction]


ATTACKS = {
    "pins a hold for an auction of this cell": Attack(
        "pin",
        lambda it: commands.PinHold(user_id=it.rig.ben, auction_id=it.auction_id, bid_id=it.bid_id, amount=USD),
    ),
    "takes it": Attack(
        "escrow-out",
        lambda it: commands.SendToEscrow(
            user_id=it.rig.ben,
            auction_id=it.auction_id,
            bid_id=it.bid_id,
            amount=USD,
            to_cell=THERE,
            clearing_id=uuid4(),
        ),
    ),
    "frees the bid that leads": Attack(
        "release",
        lambda it: commands.ReleaseBid(user_id=it.rig.ben, auction_id=it.auction_id, bid_id=it.bid_id, currency="USD"),
    ),
    "gives the asset away": Attack(
        "ownership",
        lambda it: commands.TransferOwnership(
            asset_id=it.asset_id,
            auction_id=it.auction_id,
            from_user_id=it.rig.ann,
            to_user_id=it.rig.carl,
            to_cell=THERE,
        ),
    ),
    "fills the escrow": Attack(
        "escrow-in",
        lambda it: commands.ReceiveEscrow(auction_id=it.auction_id, amount=USD, from_cell=THERE, clearing_id=uuid4()),
    ),
    "empties the escrow": Attack(
        "credit-out",
        lambda it: commands.PayOutEscrow(auction_id=it.auction_id, amount=USD, to_cell=THERE, clearing_id=uuid4()),
    ),
    "reserves somebody's money": Attack(
        "reserve",
        lambda it: commands.ReserveForBid(user_id=it.rig.ben, auction_id=it.auction_id, bid_id=uuid4(), amount=USD),
    ),
    "sends somebody's money": Attack(
        "send",
        lambda it: commands.SendTransfer(
            user_id=it.rig.ben, to_user_id=it.rig.carl, amount=USD, to_cell=THERE, clearing_id=uuid4()
        ),
    ),
    "credits a sale from a third cell": Attack("credit-in", lambda it: credit(it.rig, from_cell=THIRD)),
    "credits a sale from this cell": Attack("credit-in", lambda it: credit(it.rig, from_cell=HERE)),
    "pays from a third cell": Attack("receive", lambda it: payment(it.rig, from_cell=THIRD)),
    "pays from this cell": Attack("receive", lambda it: payment(it.rig, from_cell=HERE)),
    "pays under another leg's name": Attack("receive-2", lambda it: payment(it.rig, from_cell=THERE)),
    "bids for a third cell": Attack(
        "submit",
        lambda it: commands.SubmitBid(
            auction_id=it.auction_id,
            bid_id=uuid4(),
            bidder_id=uuid4(),
            bidder_cell=THIRD,
            amount=Money("USD", 50_000),
            valid_until_ms=2**40,
        ),
    ),
    "tells of an auction of another cell": Attack(
        "notify",
        lambda it: commands.NotifyParty(user_id=it.rig.ben, auction=it.auction, amount=USD, notice="AUCTION_WON"),
    ),
    "settles what it has not credited": Attack(
        "settle",
        lambda it: commands.SettlePending(user_id=it.rig.ann, auction_id=it.auction_id, amount=USD, fee_minor=20_000),
    ),
    "brings a user from a third cell": Attack("arrive", lambda _: arrival(uuid4(), from_cell=THIRD)),
}


def credit(rig: Rig, *, from_cell: str = THERE, amount: Money = USD) -> commands.CreditPending:
    return commands.CreditPending(
        user_id=rig.ann, auction_id=UUID(int=7), amount=amount, from_cell=from_cell, clearing_id=UUID(int=8)
    )


def payment(rig: Rig, *, from_cell: str) -> commands.ReceiveTransfer:
    return commands.ReceiveTransfer(
        user_id=rig.ben,
        from_user_id=rig.carl,
        amount=USD,
        from_cell=from_cell,
        clearing_id=uuid4(),
        valid_until_ms=2**40,
    )


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
async def test_a_leg_that_is_not_for_the_cell_to_ask(market: Market, attack: Attack) -> None:
    """It is denied, alone as in a batch, as an action and as its compensation, and nothing is written."""
    rig, leg = market.rig, leg_of(market.rig, attack.action(market), attack.leg)
    before = await rig.store.head()
    assert (await refusal_of(apply(rig, leg))).reason == "FOREIGN_LEG"
    item = settlement_pb2.LegRequest(apply=settlement_pb2.ApplyLegRequest(leg=leg))
    batch = await rig.ask("BatchLegs", items=[item], by=PEER)
    assert batch.results[0].refused.code == 7  # PERMISSION_DENIED
    if not leg.HasField("settle_pending"):
        assert (await refusal_of(undo(rig, leg))).reason == "FOREIGN_LEG"
    assert (await rig.store.head()).position == before.position


async def test_a_cell_does_not_call_itself_from_outside(market: Market) -> None:
    """Whoever has this cell's own certificate is refused what its sagas do by themselves."""
    own = (("cellbook-principal", f"peer/{HERE}"),)
    action = commands.PayOutEscrow(auction_id=market.auction_id, amount=USD, to_cell=HERE, clearing_id=uuid4())
    leg = leg_of(market.rig, action, "credit-out", orchestrator=HERE)
    assert (await refusal_of(apply(market.rig, leg, own))).reason == "NOT_PERMITTED"


async def test_a_hold_is_for_the_cell_of_its_auction(rig: Rig) -> None:
    """What ben has bid in the neighbour's auction the neighbour may pin, take and give back, and no third cell."""
    auction_id = await open_auction(rig.there, rig.carl)
    bid = commands.PlaceBid(auction_id=auction_id, auction_cell=THERE, bidder_id=rig.ben, amount=USD)
    placed = await rig.cell.execute(request(bid))
    bid_id = placed.result.bid_id
    pin = commands.PinHold(user_id=rig.ben, auction_id=auction_id, bid_id=bid_id, amount=USD)
    for name, action in (("pin", pin), ("release", _release(pin))):
        leg = leg_of(rig, action, name, orchestrator=THIRD)
        refused = await refusal_of(apply(rig, leg, THIRD_PEER))
        assert refused.reason == "FOREIGN_LEG"
        assert f"auction of {THERE}" in refused.message
    assert (await apply(rig, leg_of(rig, pin, "pin"))).event_id


def _release(pin: commands.PinHold) -> commands.ReleaseBid:
    return commands.ReleaseBid(user_id=pin.user_id, auction_id=pin.auction_id, bid_id=pin.bid_id, currency="USD")


async def test_no_more_is_taken_than_the_bid(rig: Rig) -> None:
    """Of a hold for several bids the settlement gets at most the one that won, or its maximum, whatever it asks for."""
    auction_id = await open_auction(rig.there, rig.carl)
    placed = []
    for amount, maximum in ((200, None), (250, Money("USD", 300))):
        bid = commands.PlaceBid(
            auction_id=auction_id,
            auction_cell=THERE,
            bidder_id=rig.ben,
            amount=Money("USD", amount),
            maximum=maximum,
        )
        placed.append((await rig.cell.execute(request(bid))).result.bid_id)
    smaller, larger = ({"user_id": rig.ben, "auction_id": auction_id, "bid_id": bid_id} for bid_id in placed)
    await apply(rig, leg_of(rig, commands.PinHold(**larger, amount=Money("USD", 250)), "pin"))
    for ids, amount in ((smaller, 201), (larger, 301)):
        take = commands.SendToEscrow(**ids, amount=Money("USD", amount), to_cell=THERE, clearing_id=uuid4())
        assert (await refusal_of(apply(rig, leg_of(rig, take, "escrow-out")))).reason == "HOLD_NOT_PINNABLE"


async def test_a_hold_is_taken_and_freed_in_its_own_currency(rig: Rig) -> None:
    """Else a bid of 300 cents would take, or free, 300 yen that back something else."""
    yen = Money("JPY", 300)
    await rig.cell.execute(request(commands.Deposit(user_id=rig.ben, amount=yen, external_reference="yen")))
    await rig.cell.execute(request(commands.Reserve(user_id=rig.ben, amount=yen, expire_time_ms=None)))
    auction_id = await open_auction(rig.there, rig.carl)
    bid = commands.PlaceBid(auction_id=auction_id, auction_cell=THERE, bidder_id=rig.ben, amount=Money("USD", 300))
    placed = await rig.cell.execute(request(bid))
    ids = {"user_id": rig.ben, "auction_id": auction_id, "bid_id": placed.result.bid_id}
    assert (
        await refusal_of(apply(rig, leg_of(rig, commands.PinHold(**ids, amount=yen), "pin")))
    ).reason == "HOLD_NOT_PINNABLE"
    await apply(rig, leg_of(rig, commands.PinHold(**ids, amount=Money("USD", 300)), "pin"))
    take = commands.SendToEscrow(**ids, amount=yen, to_cell=THERE, clearing_id=uuid4())
    assert (await refusal_of(apply(rig, leg_of(rig, take, "escrow-out")))).reason == "HOLD_NOT_PINNABLE"
    await apply(rig, leg_of(rig, commands.ReleaseBid(**ids, currency="JPY"), "release"))
    ben = (await rig.cell.account(rig.ben)).state
    assert (ben.balance("JPY").reserved_minor, ben.balance("USD").reserved_minor) == (300, 0)


async def test_a_bid_under_an_id_that_was_used_can_be_outbid(market: Market) -> None:
    """Its release would be the saga of the earlier bid's, which cannot begin twice: nobody could bid more."""
    rig, bid_id, bidder_id = market.rig, uuid4(), uuid4()
    for amount in (30_000, 50_000):
        bid = commands.SubmitBid(
            auction_id=market.auction_id,
            bid_id=bid_id,
            bidder_id=bidder_id,
            bidder_cell=THERE,
            amount=Money("USD", amount),
            valid_until_ms=2**46,
        )
        await apply(rig, leg_of(rig, bid, "submit", saga_id=uuid4()))
        assert (await rig.bid(market.auction, rig.ben, amount + 10_000)).bid_id


# --- what was credited, settled, undone ------------------------------------------------------------------------------


def sale(action: commands.CreditPending, fee_minor: int = 0) -> commands.SettlePending:
    return commands.SettlePending(
        user_id=action.user_id, auction_id=action.auction_id, amount=action.amount, fee_minor=fee_minor
    )


async def pending_of(rig: Rig) -> int:
    return (await rig.cell.account(rig.ann)).state.balance("USD").pending_minor


async def test_a_sale_is_settled_by_the_saga_that_has_credited_it(rig: Rig) -> None:
    """Another cell's sale is not made fees of, nor taken back, by whoever names its saga, user and auction."""
    theirs = credit(rig, from_cell=THIRD)
    await apply(rig, leg_of(rig, theirs, "credit-in", orchestrator=THIRD), THIRD_PEER)
    assert (await refusal_of(apply(rig, leg_of(rig, sale(theirs, 20_000), "settle")))).reason == "FOREIGN_LEG"
    stolen = leg_of(rig, replace(theirs, from_cell=THERE), "credit-in")
    assert (await undo(rig, stolen)).result == settlement_pb2.COMPENSATION_RESULT_TOMBSTONED
    assert await pending_of(rig) == 20_000
    await apply(rig, leg_of(rig, sale(theirs, 500), "settle", orchestrator=THIRD), THIRD_PEER)
    assert await pending_of(rig) == 0


async def test_a_credit_is_settled_once_and_not_taken_back_then(rig: Rig) -> None:
    """Else a credit of its own would pay the hostile cell out of another's, which is pending beside it."""
    theirs, own = credit(rig, from_cell=THIRD), credit(rig)
    await apply(rig, leg_of(rig, theirs, "credit-in", orchestrator=THIRD), THIRD_PEER)
    await apply(rig, leg_of(rig, own, "credit-in"))
    await apply(rig, leg_of(rig, sale(own), "settle"))
    assert (await refusal_of(apply(rig, leg_of(rig, sale(own), "settle-2")))).reason == "FOREIGN_LEG"
    assert (await refusal_of(undo(rig, leg_of(rig, own, "credit-in")))).reason == "FOREIGN_LEG"
    assert await pending_of(rig) == 20_000


async def test_a_credit_that_was_taken_back_is_not_settled(rig: Rig) -> None:
    """Nor is another one's settled in its place."""
    theirs, own = credit(rig, from_cell=THIRD), credit(rig)
    await apply(rig, leg_of(rig, theirs, "credit-in", orchestrator=THIRD), THIRD_PEER)
    await apply(rig, leg_of(rig, own, "credit-in"))
    assert (await undo(rig, leg_of(rig, own, "credit-in"))).result == settlement_pb2.COMPENSATION_RESULT_UNDONE
    assert (await refusal_of(apply(rig, leg_of(rig, sale(own), "settle")))).reason == "FOREIGN_LEG"
    assert await pending_of(rig) == 20_000


async def test_what_is_undone_is_what_was_done(rig: Rig) -> None:
    """A credit of one cent does not take back a sale of two hundred."""
    await apply(rig, leg_of(rig, credit(rig, from_cell=THIRD), "credit-in", orchestrator=THIRD), THIRD_PEER)
    await apply(rig, leg_of(rig, credit(rig, amount=Money("USD", 1)), "credit-in"))
    undone = await undo(rig, leg_of(rig, credit(rig), "credit-in"))
    assert undone.result == settlement_pb2.COMPENSATION_RESULT_TOMBSTONED
    assert await pending_of(rig) == 20_001


async def test_no_cell_answers_or_bars_a_leg_of_anothers_saga(rig: Rig) -> None:
    """The ids of sagas follow from auctions that everybody sees: who is first under them takes nothing from others."""
    await apply(rig, leg_of(rig, credit(rig, amount=Money("USD", 1)), "credit-in"))
    await undo(rig, leg_of(rig, credit(rig), "credit-in"))
    theirs = leg_of(rig, credit(rig, from_cell=THIRD), "credit-in", orchestrator=THIRD)
    assert not (await apply(rig, theirs, THIRD_PEER)).replayed
    assert await pending_of(rig) == 20_001
