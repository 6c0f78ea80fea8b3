"""Maximum bids over a real socket, and between two cells: what bidders are told, and who pays what."""

from uuid import UUID

import pytest

from cellbook.v1 import auction_pb2
from cells.domain.auction.auction import AuctionState
from cells.domain.commands import CloseAuction, PlaceBid
from cells.domain.refusals import BidTooLow, CommandIdReused, FieldInvalid, InsufficientFunds
from cells.domain.values import Money
from cells.requests import Outcome
from tests.integration.services_rig import HERE, THERE, Rig, as_user, new_id, refusal_of, usd
from tests.local_cells import LocalCell, open_auction, open_user, request, until_async

KIND = auction_pb2.AuctionChangeKind


async def maximum(rig: Rig, auction: str, bidder: UUID, amount: int, most: int, command_id: str = "") -> str:
    content = {"auction": auction, "bidder_user_id": bidder, "amount": usd(amount), "maximum": usd(most)}
    return str((await rig.ask("PlaceBid", content | {"command_id": command_id or new_id()})).bid_id)


async def by_carl(rig: Rig, auction: str, amount: int, most: int) -> Outcome:
    bid = PlaceBid(
        auction_id=id_of(auction),
        auction_cell=HERE,
        bidder_id=rig.carl,
        amount=Money("USD", amount),
        maximum=Money("USD", most),
    )
    return await rig.there.execute(request(bid))


def id_of(auction: str) -> UUID:
    return UUID(auction.rpartition("/")[2])


async def money(cell: LocalCell, user: UUID) -> tuple[int, int]:
    balance = (await cell.account(user)).state.balance("USD")
    return balance.available_minor, balance.reserved_minor


async def leads(rig: Rig, auction: str) -> tuple[str, int]:
    highest = (await rig.ask("GetAuction", name=auction)).auction.highest_bid
    return highest.bid_id, highest.amount.amount_minor


async def has(cell: LocalCell, user: UUID, available: int, reserved: int) -> None:
    await until_async(lambda: money(cell, user), lambda found: found == (available, reserved))


async def test_a_winner_of_another_cell_pays_the_price_and_no_more(rig: Rig) -> None:
    """Carl's whole maximum is held at home; Ben's bids raise his without a call to it; the rest comes back."""
    auction = await rig.auction(increment_minor=50)
    carls = str((await by_carl(rig, auction, 100, 5_000)).result.bid_id)
    assert await money(rig.there, rig.carl) == (95_000, 5_000)
    rig.peers.cut.add(THERE)
    await rig.bid(auction, rig.ben, 1_000)
    await maximum(rig, auction, rig.ben, 1_100, 2_000)
    assert await leads(rig, auction) == (carls, 2_050)
    assert await money(rig.cell, rig.ben) == (100_000, 0)
    rig.peers.cut.clear()
    await rig.ask("CloseAuction", auction=auction)
    await has(rig.there, rig.carl, 97_950, 0)
    # The seller has the price, less a fee of 2.5%.
    await has(rig.cell, rig.ann, 100_000 + 2_050 - 51, 0)


async def test_an_answered_bid_from_another_cell_is_accepted_and_its_money_is_free_again(rig: Rig) -> None:
    """As if somebody had outbid it a moment later."""
    auction = await rig.auction()
    bens = await maximum(rig, auction, rig.ben, 100, 5_000)
    await by_carl(rig, auction, 200, 3_000)
    assert await leads(rig, auction) == (bens, 3_001)
    await has(rig.there, rig.carl, 100_000, 0)
    outbids = str((await by_carl(rig, auction, 200, 6_000)).result.bid_id)
    assert await leads(rig, auction) == (outbids, 5_001)
    await has(rig.cell, rig.ben, 100_000, 0)
    assert await money(rig.there, rig.carl) == (94_000, 6_000)


async def test_a_maximum_into_another_cell_is_kept_there(rig: Rig) -> None:
    """Over the wire to the home, from there to the auction's cell, and back when it has ended."""
    there = await open_auction(rig.there, rig.carl)
    name, dora = f"cells/{THERE}/auctions/{there}", await open_user(rig.there, 1_000)
    bid_id = await maximum(rig, name, rig.ben, 100, 700)
    bid = PlaceBid(auction_id=there, auction_cell=THERE, bidder_id=dora, amount=Money("USD", 300))
    await rig.there.execute(request(bid))
    highest = (await rig.there.auction(there)).state.highest_bid
    assert highest is not None
    assert (str(highest.bid_id), highest.amount_minor, highest.maximum_minor) == (bid_id, 301, 700)
    await rig.there.execute(request(CloseAuction(auction_id=there, by_command=True)))
    await has(rig.cell, rig.ben, 100_000 - 301, 0)
    assert (await rig.there.auction(there)).state.state in {AuctionState.SETTLING, AuctionState.SETTLED}


async def test_a_repeated_maximum_is_one_bid(rig: Rig) -> None:
    """Its id gets the first answer; with another maximum it is another request."""
    auction, command_id = await rig.auction(), new_id()
    first = await maximum(rig, auction, rig.ben, 100, 700, command_id)
    assert await maximum(rig, auction, rig.ben, 100, 700, command_id) == first
    assert isinstance(await refusal_of(maximum(rig, auction, rig.ben, 100, 800, command_id)), CommandIdReused)
    assert await money(rig.cell, rig.ben) == (99_300, 700)


async def test_watchers_see_both_bids_and_nobody_sees_the_maximum(rig: Rig) -> None:
    """The bid that was answered, then the raise, which has outbid it."""
    auction = await rig.auction()
    carls = str((await by_carl(rig, auction, 100, 5_000)).result.bid_id)
    at = (await rig.ask("WatchAuction", auction=auction)).next_position
    bens = (await rig.bid(auction, rig.ben, 400)).bid_id
    watch = auction_pb2.WatchAuctionRequest(auction=auction, from_position=at)
    stream = rig.send(watch, by=as_user(rig.ben))
    seen: list[auction_pb2.AuctionChange] = []
    async for item in stream:
        seen += item.changes
        assert b"maximum" not in item.SerializeToString()
        assert item.auction.highest_bid.amount.amount_minor in {100, 401}
        if len(seen) == 2:
            break
    stream.cancel()
    placed, raised = seen
    assert (placed.kind, placed.bid.bid_id, placed.bid.amount) == (KIND.AUCTION_CHANGE_KIND_BID, bens, usd(400))
    assert (raised.kind, raised.bid.bid_id, raised.bid.amount) == (KIND.AUCTION_CHANGE_KIND_RAISED, carls, usd(401))
    assert (placed.outbid.bid_id, raised.outbid.bid_id) == (carls, bens)
    assert "maximum" not in auction_pb2.Bid.DESCRIPTOR.fields_by_name


@pytest.mark.parametrize("cell", [HERE, THERE])
async def test_a_wrong_maximum_is_refused_and_nothing_is_held(rig: Rig, cell: str) -> None:
    """With the field that is wrong, whether the auction is here or not."""
    there = await open_auction(rig.there, rig.carl)
    auction = await rig.auction() if cell == HERE else f"cells/{THERE}/auctions/{there}"
    below = await refusal_of(maximum(rig, auction, rig.ben, 200, 199))
    assert isinstance(below, FieldInvalid)
    assert below.facts["field"] == "maximum.amount_minor"
    negative = await refusal_of(maximum(rig, auction, rig.ben, 200, -1))
    assert negative.facts["field"] == "maximum.amount_minor"
    assert isinstance(await refusal_of(maximum(rig, auction, rig.ben, 200, 100_001)), InsufficientFunds)
    assert isinstance(await refusal_of(maximum(rig, auction, rig.ben, 20, 99)), BidTooLow)
    await has(rig.cell, rig.ben, 100_000, 0)


async def test_another_bidders_maximum_cannot_be_probed_by_refusals(rig: Rig) -> None:
    """A bid below the leader's maximum is no refusal but a bid: who wants to know the maximum has to pay for it."""
    auction = await rig.auction()
    await by_carl(rig, auction, 100, 5_000)
    low = await refusal_of(rig.bid(auction, rig.ben, 100))
    assert isinstance(low, BidTooLow)
    assert low.facts["least_minor"] == "101"
