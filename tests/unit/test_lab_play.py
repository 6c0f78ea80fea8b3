"""The cells and sellers of the lots, the choice of the featured sale, and its flow in the form for people."""

import asyncio
from collections import Counter

import pytest

from cellbook.v1 import event_pb2
from cellbook.v1.types_pb2 import HlcStamp, Posting
from lab.books import order
from lab.lots import FileBid, Lot
from lab.market import Person
from lab.play import Place, featured_index, places, side_by_side
from lab.report import trace_rows

CELLS = ("us-east", "eu-west", "ap-tokyo")


def person(cell: str, label: str = "somebody") -> Person:
    return Person(label=label, user_id=label, cell=cell)


def lot(*bids: tuple[int, int]) -> Lot:
    made = tuple(FileBid(bidder=bidder, amount_minor=amount) for bidder, amount in bids)
    return Lot(key="a", item="bell", opening_minor=10, bids=made)


def test_auctions_and_sellers_are_spread_evenly() -> None:
    """Eighteen lots: each cell sells six, and each pair of auction's and seller's cell occurs twice."""
    sellers = [person(CELLS[index % 3], f"seller {index}") for index in range(6)]
    spread = places([lot()] * 18, CELLS, sellers)
    assert Counter(place.cell for place in spread) == dict.fromkeys(CELLS, 6)
    pairs = Counter((place.cell, place.seller.cell) for place in spread)
    assert pairs == {(auction, seller): 2 for auction in CELLS for seller in CELLS}
    assert {place.seller.label for place in spread} == {seller.label for seller in sellers}


def test_the_sale_that_crosses_most_cells_is_shown() -> None:
    """Three cells come before two, the first of equals is chosen, and a lot without a winner never."""
    bidders = {1: person("us-east"), 2: person("ap-tokyo")}
    here = Place(cell="us-east", seller=person("eu-west"))
    lots = [lot(), lot((1, 20)), lot((1, 20), (2, 30)), lot((2, 20))]
    assert featured_index(lots, [here] * 4, bidders) == 2
    assert featured_index(lots[:2], [here] * 2, bidders) == 1
    assert featured_index(lots[:1], [here], bidders) is None


async def test_side_by_side_is_bounded_and_in_order() -> None:
    """Never more than the limit at once; results in the order of the items."""
    running, most = 0, 0

    async def work(item: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001 * (item % 3))
        running -= 1
        return item * item

    assert await side_by_side(range(20), work, limit=4) == [item * item for item in range(20)]
    assert most == 4


async def test_the_first_failure_ends_the_rest() -> None:
    """The failure itself is raised, and nothing continues afterwards."""
    ended: list[int] = []

    async def work(item: int) -> None:
        if item == 0:
            raise LookupError("no such thing")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(item)

    with pytest.raises(LookupError, match="no such thing"):
        await side_by_side(range(3), work)
    assert sorted(ended) == [1, 2]


def event(cell: str, position: int, at: tuple[int, int], cause: str = "", **more: object) -> event_pb2.Event:
    return event_pb2.Event(
        cell=cell,
        position=position,
        event_id=f"id-{cell}-{position:06}",
        event_type="ESCROW_SENT",
        causation_id=cause,
        hlc=HlcStamp(physical_ms=at[0], logical=at[1]),
        payload_json='{"leg": "escrow-out"}',
        **more,  # type: ignore[arg-type]
    )


def test_cells_are_ordered_by_stamp_then_by_name() -> None:
    """Physical time comes first, then the counter; the cell's name breaks ties."""
    flow = [event("us", 1, (5, 1)), event("us", 2, (7, 0)), event("eu", 9, (5, 0)), event("eu", 10, (7, 0))]
    ordered = sorted(flow, key=order)
    assert [(row.cell, row.position) for row in ordered] == [("eu", 9), ("us", 1), ("eu", 10), ("us", 2)]


def test_causes_are_named_by_their_number_in_the_flow() -> None:
    """A cause within the flow by its row's number, one outside only by its id."""
    posting = Posting(account="users/u-1/reserved", currency="USD", amount_minor=-1_234_56)
    rows = trace_rows(
        [
            event("eu", 9, (5, 0), cause="id-eu-000001"),
            event("us", 1, (6, 0), cause="id-eu-000009", postings=[posting]),
        ],
        {"u-1": "bidder 7"},
    )
    assert [row[4] for row in rows] == ["before 000001", "#1 000009"]
    assert rows[1][5] == "[bold]ESCROW_SENT[/bold] escrow-out\n    bidder 7 reserved -1,234.56 USD"
