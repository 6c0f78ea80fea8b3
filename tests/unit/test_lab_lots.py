"""Files of recorded bids: valid ones are read, invalid ones refused with the line."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from cellbook.v1 import event_pb2
from cellbook.v1.types_pb2 import HlcStamp, Posting
from lab.books import order
from lab.demo import SAMPLE
from lab.lots import BidFileError, Expected, FileBid, Lot, expected, funds_needed, read_lots
from lab.market import Person
from lab.play import Place, featured_index, places, side_by_side
from lab.report import trace_rows

HEAD = "auction,item,duration_days,open_minor,time_s,bidder,bid_minor\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "bids.csv"


def test_bids_keep_their_order_within_their_auction(file: Path) -> None:
    """Rows of several auctions may be mixed; the first row of each names its opening price."""
    file.write_text(HEAD + "a,pda,3,100,1.0,7,150\nb,bell,3,1,1.0,8,5\na,pda,3,999,2.0,9,140\n")
    assert read_lots(file) == [
        Lot(
            key="a",
            item="pda",
            opening_minor=100,
            bids=(FileBid(bidder=7, amount_minor=150), FileBid(bidder=9, amount_minor=140)),
        ),
        Lot(key="b", item="bell", opening_minor=1, bids=(FileBid(bidder=8, amount_minor=5),)),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1: an empty file"),
        (HEAD, "holds no bids"),
        ("auction,item,bidder,bid_minor\na,b,1,2\n", "line 1: no column open_minor"),
        (
            HEAD + "a,pda,3,1,1.0,7,150\na,pda,3,1,1.0,7,ten\n",
            "line 3: bid_minor is not a whole number: 'ten'",
        ),
        (HEAD + "a,pda,3,1,1.0,7,1.5\n", "line 2: bid_minor is not a whole number: '1.5'"),
        (HEAD + "a,pda,3,1,1.0,7,1_000\n", "line 2: bid_minor is not a whole number"),
        (HEAD + "a,pda,3,1,1.0,7,-150\n", "line 2: bid_minor must be positive, got -150"),
        (HEAD + "a,pda,3,0,1.0,7,150\n", "line 2: open_minor must be positive, got 0"),
        (HEAD + "a,pda,3,1,1.0,x7,150\n", "line 2: bidder is not a whole number: 'x7'"),
        (HEAD + "a,pda,3,1,1.0,7\n", "line 2: bid_minor is empty"),
        (HEAD + ",pda,3,1,1.0,7,1\n", "line 2: auction is empty"),
        (HEAD + "a,pda,3,1,1.0,7,150,8\n", "line 2: more fields than columns"),
        (HEAD + f"a,pda,3,1,1.0,7,{2**63}\n", "line 2: bid_minor does not fit in 64 bits"),
        (HEAD + f"a,pda,3,1,1.0,7,{'9' * 5000}\n", "line 2: bid_minor does not fit in 64 bits"),
        (HEAD + f"a,p,3,1,1.0,7,{2**62}\na,p,3,1,1.0,7,{2**62}\n", "bids of bidder 7 come to more than fits"),
        (HEAD + 'a,"pda,3,1,1.0,7,150\n', "line 2: unexpected end of data"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(file: Path, text: str, told: str) -> None:
    """If a file cannot be played as a whole, nothing of it is played."""
    file.write_text(text)
    with pytest.raises(BidFileError, match=told):
        read_lots(file)


@pytest.mark.parametrize(("content", "told"), [(None, "No such file"), (b"\xff\xfe\x00", "not text in UTF-8")])
def test_what_is_no_file_of_text_is_refused(file: Path, content: bytes | None, told: str) -> None:
    """A missing or binary file gives an error of its own, not a traceback."""
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BidFileError, match=told):
        read_lots(file)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    """A folder is refused, too."""
    with pytest.raises(BidFileError, match="Is a directory"):
        read_lots(tmp_path)


def test_strictly_above_the_highest_is_accepted_and_all_else_refused() -> None:
    """Below the opening, equal and lower bids are refused; a bidder may raise their own."""
    amounts = ((1, 99), (1, 100), (2, 100), (2, 101), (2, 103), (1, 102))
    bids = tuple(FileBid(bidder=bidder, amount_minor=amount) for bidder, amount in amounts)
    lot = Lot(key="a", item="bell", opening_minor=100, bids=bids)
    assert expected(lot) == Expected(accepted=3, refused=3, winner=2, price_minor=103)


def test_nobody_wins_what_nobody_opens() -> None:
    """If every bid is below the opening price, there is no winner and no price."""
    lot = Lot(key="a", item="bell", opening_minor=100, bids=(FileBid(bidder=1, amount_minor=99),))
    assert expected(lot) == Expected(accepted=0, refused=1, winner=None, price_minor=0)


def test_funds_are_enough_for_every_bid_at_once() -> None:
    """Each bidder needs the sum of their bids, in each currency separately."""
    bids = (FileBid(bidder=1, amount_minor=5), FileBid(bidder=1, amount_minor=7))
    dollars = Lot(key="a", item="bell", opening_minor=1, bids=bids)
    yen = Lot(key="b", item="print", opening_minor=1, bids=bids[:1], currency="JPY")
    assert funds_needed([dollars, yen]) == {(1, "USD"): 12, (1, "JPY"): 5}


def test_the_sample_has_wins_and_refusals() -> None:
    """Two dozen auctions, each with a winner, and with accepted and refused bids."""
    results = [expected(lot) for lot in read_lots(SAMPLE)]
    assert len(results) == 24
    assert all(result.winner is not None for result in results)
    assert sum(result.refused for result in results) > 20


# --- the cells and sellers of the lots, the choice of the featured sale, and its flow in the form for people ----------


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
