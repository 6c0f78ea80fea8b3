"""The bytes that the load generator sends are bids that a cell accepts."""

from collections import defaultdict
from dataclasses import replace
from itertools import islice, pairwise
from uuid import UUID

import pytest

from cellbook.v1 import auction_pb2
from tests.bench.calls import FUNDS_MINOR, TIER_PERIODS, Bids, command_ids, user_id

BIDS = Bids(auctions=("cells/a/auctions/1", "cells/a/auctions/2"), bidders_each=3, turn=2, items=4, tier=0, batch=True)


def sent(bids: Bids, calls: int) -> list[auction_pb2.PlaceBidRequest]:
    requests = islice(bids.calls(), calls)
    if not bids.batch:
        return [auction_pb2.PlaceBidRequest.FromString(each) for each in requests]
    return [item for each in requests for item in auction_pb2.BatchPlaceBidsRequest.FromString(each).items]


def test_bidders_take_turns() -> None:
    """The auctions take turns; each has its own bidders, each with as many bids as a turn has."""
    made = sent(BIDS, 6)
    assert [bid.auction for bid in made[:4]] == [*BIDS.auctions, *BIDS.auctions]
    for number, auction in enumerate(BIDS.auctions):
        bidders = [bid.bidder_user_id for bid in made if bid.auction == auction]
        ours = [user_id(3 * number + bidder) for bidder in range(3)]
        turns = [bidder for bidder in ours for _ in range(2)] * 3
        assert bidders == turns[number : number + 12]


@pytest.mark.parametrize("bids", [BIDS, replace(BIDS, batch=False, items=1)])
def test_amounts_rise(bids: Bids) -> None:
    """In each auction over all periods, tiers and continued runs; and no bidder lacks money."""
    calls = (TIER_PERIODS - 10) * 3
    first, rest = sent(bids, calls), sent(replace(bids, first=calls * bids.items), 20)
    amounts = defaultdict(list)
    for bid in [*first, *rest, *sent(replace(bids, tier=1), calls)]:
        amounts[bid.auction].append(bid.amount.amount_minor)
    for offered in amounts.values():
        assert all(lower < higher for lower, higher in pairwise(offered))
        assert offered[-1] < FUNDS_MINOR


def test_each_command_has_an_id_of_its_own() -> None:
    """They are of version 7, as clients are advised to use."""
    pairs = replace(BIDS, items=2)
    ids = [UUID(bid.command_id) for client in (0, 1) for bid in sent(pairs.of(client, 2), 100)]
    assert len(set(ids)) == 400
    assert {each.version for each in ids} == {7}
    several = list(islice(command_ids(), 10_000))
    assert several == sorted(set(several))


def test_each_client_has_auctions_of_its_own() -> None:
    """Together they cover all auctions, each with its own bidders."""
    bids = replace(BIDS, items=1, auctions=(*BIDS.auctions, "cells/a/auctions/3"), batch=False)
    alone = {(bid.auction, bid.bidder_user_id) for bid in sent(bids, bids.period)}
    shares = [{(bid.auction, bid.bidder_user_id) for bid in sent(bids.of(client, 2), 12)} for client in range(2)]
    assert not {auction for auction, _ in shares[0]} & {auction for auction, _ in shares[1]}
    assert shares[0] | shares[1] == alone


def test_one_auction_holds_all_in_one_batch() -> None:
    """The amounts also rise within a batch."""
    hot = Bids(auctions=BIDS.auctions[:1], bidders_each=8, turn=1, items=4, tier=0, batch=True)
    made = sent(hot, 4)
    assert [bid.bidder_user_id for bid in made] == [user_id(number) for number in range(8)] * 2
    assert sorted(made, key=lambda bid: bid.amount.amount_minor) == made


@pytest.mark.parametrize(("items", "first", "turn"), [(5, 0, 2), (4, 2, 2), (4, 0, 2**21)])
def test_what_does_not_fit_is_refused(items: int, first: int, turn: int) -> None:
    """Calls that would straddle two periods, and periods with more steps than amounts, are refused."""
    with pytest.raises(ValueError, match="period"):
        replace(BIDS, items=items, first=first, turn=turn)


def test_a_tier_ends() -> None:
    """It ends before its amounts reach those of the next one."""
    end = TIER_PERIODS * BIDS.period
    with pytest.raises(ValueError, match="tier"):
        sent(replace(BIDS, first=end), 1)
