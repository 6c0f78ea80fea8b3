"""Files of recorded bids: valid ones are read, invalid ones refused with the line."""

from pathlib import Path

import pytest

from lab.demo import SAMPLE
from lab.lots import BidFileError, Expected, FileBid, Lot, expected, funds_needed, read_lots

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
