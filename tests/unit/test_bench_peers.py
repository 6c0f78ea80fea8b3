"""The table of what Cellbook and its peers guarantee."""

from itertools import islice
from pathlib import Path

from tests.bench.peers.guarantees import markdown
from tests.bench.peers.work import TURN, Size, bids

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def test_the_page_has_the_table_that_is_printed() -> None:
    """Line by line."""
    assert "\n".join(markdown()) in PAGE.read_text()


def test_bids_of_different_clients_never_meet() -> None:
    """Each has auctions and bidders of its own; in each auction amounts rise, also from tier to tier."""
    size = Size(users=40, auctions=4)
    each = [[bid for tier in range(2) for bid in islice(bids(size, tier, client, 2), 10 * TURN)] for client in range(2)]
    for attribute in ("auction", "bidder", "command_id"):
        first, second = ({getattr(bid, attribute) for bid in own} for own in each)
        assert first.isdisjoint(second)
    for auction in range(size.auctions):
        amounts = [bid.amount_minor for own in each for bid in own if bid.auction == auction]
        assert amounts == sorted(set(amounts))


def test_a_bidder_is_outbid_after_its_turn() -> None:
    """The first bid of a turn outbids another bidder, the rest raise its own."""
    bidders = [bid.bidder for bid in islice(bids(Size(users=10, auctions=1), 0), 5 * TURN)]
    assert bidders == [turn for turn in range(5) for _ in range(TURN)]
