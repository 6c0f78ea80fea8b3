"""Of support's pages: each event in words, why money is reserved, and what a user sells."""

import json
from types import SimpleNamespace
from typing import Any, cast, get_args

import pytest

from cellbook.v1 import auction_pb2, event_pb2, ledger_pb2
from cellbook.v1.types_pb2 import Money
from cells.domain.events import AccountEvents
from cells.domain.record import fields_of
from server.cli.client import NoAnswer
from server.cli.reach import Reach
from server.console.support.holds import reason_of
from server.console.support.selling import PAGE, selling_of
from server.console.support.words import BID, BID_RELEASED, WORDS, auctions_of, words_of

ME, OTHER = "0198c0de-0000-7000-8000-00000000000a", "0198c0de-0000-7000-8000-00000000000b"
ID = "0198c0de-0000-7000-8000-00000000000c"
AUCTION = f"cells/us-east/auctions/{ID}"
ACTIVE, SETTLING = auction_pb2.AUCTION_STATE_ACTIVE, auction_pb2.AUCTION_STATE_SETTLING
END_MS = 1_800_000_000_000


def event(event_type: str, **payload: object) -> event_pb2.Event:
    return event_pb2.Event(event_type=event_type, payload_json=json.dumps(payload))


def test_each_event_of_an_account_has_words() -> None:
    """All kinds, by the fields that they have; and none that there is not."""
    kinds = {kind.event_type: kind for kind in get_args(AccountEvents)}
    assert WORDS.keys() == kinds.keys()
    for event_type, kind in kinds.items():
        payload: dict[str, str | None] = {
            name: "7" if name.endswith("_minor") else f"<{name}>" for name in fields_of(kind)
        }
        payload |= {"currency": "USD", "bid_id": None, "bid_minor": None} if "currency" in payload else {}
        said = words_of(event(event_type, **payload))
        assert said.endswith(".")
        assert "{" not in said
        assert "7" not in said or "0.07 USD" in said or "0.21 USD" in said


def test_a_bid_has_words_of_its_own() -> None:
    """With the whole bid, and how much more it has reserved."""
    bid = {"bid_id": ID, "bid_minor": "500", "amount_minor": "100", "currency": "USD", "hold_id": ID}
    said = words_of(event("FUNDS_RESERVED", **bid, auction_cell="us-east"))
    assert said == BID.format(bid="5.00 USD", amount="1.00 USD", auction_cell="us-east")
    said = words_of(event("FUNDS_RELEASED", **bid))
    assert said == BID_RELEASED.format(bid_id=ID, amount="1.00 USD")


def test_an_event_of_a_newer_program_is_named() -> None:
    """Its words are its type."""
    assert words_of(event("SOMETHING_NEW", currency="USD")) == "SOMETHING_NEW"


def test_auctions_follow_from_the_events() -> None:
    """Each once, the last one first; a reservation of a service is no bid."""
    bid = {"bid_id": ID, "hold_id": ID, "currency": "USD"}
    found = auctions_of(
        [
            event("FUNDS_RESERVED", **bid, auction_cell="us-east"),
            event("FUNDS_RESERVED", **bid, auction_cell="us-east"),
            event("FUNDS_RESERVED", **(bid | {"hold_id": OTHER}), auction_cell=""),
            event("FUNDS_RESERVED", hold_id=ME, bid_id=None, currency="USD"),
            event("PENDING_CREDITED", auction_id=ID, from_cell="ap-tokyo"),
        ],
        "eu-west",
    )
    assert found == ([AUCTION, f"cells/eu-west/auctions/{OTHER}"], [f"cells/ap-tokyo/auctions/{ID}"])


def auction(state: "auction_pb2.AuctionState.ValueType", bidder: str) -> auction_pb2.Auction:
    bid = auction_pb2.Bid(bid_id=ID, bidder_user_id=bidder, amount=Money(currency="USD", amount_minor=700))
    return auction_pb2.Auction(state=state, highest_bid=bid, end_time_ms=END_MS, saga_id=ID)


OF_AUCTION = ledger_pb2.Hold(hold_id=ID, auction=AUCTION, bid_ids=[ID])
OF_MAXIMUM = ledger_pb2.Hold(hold_id=ID, auction=AUCTION, bid_ids=[ID], amount=Money(currency="USD", amount_minor=701))
PINNED = ledger_pb2.Hold(hold_id=ID, auction=AUCTION, saga_id=ID)


@pytest.mark.parametrize(
    ("hold", "of", "why", "until_ms"),
    [
        (ledger_pb2.Hold(), None, "A service has reserved it", 0),
        (ledger_pb2.Hold(expire_time_ms=END_MS), None, "A service has reserved it", END_MS),
        (ledger_pb2.Hold(bid_ids=[ID]), None, "before holds named their auction", 0),
        (OF_AUCTION, None, "does not say more", 0),
        (OF_AUCTION, auction(ACTIVE, ME), "the highest bid, of 7.00 USD", END_MS),
        (OF_MAXIMUM, auction(ACTIVE, ME), "It has the whole maximum", END_MS),
        (OF_AUCTION, auction(ACTIVE, OTHER), "no longer leads: the highest one is 7.00 USD", 0),
        (OF_AUCTION, auction(SETTLING, ME), "the winning bid in an auction that has ended (settling)", 0),
        (OF_AUCTION, auction(SETTLING, OTHER), "backed a bid in an auction that has ended", 0),
        (PINNED, auction(SETTLING, ME), "It pays for what was won", 0),
    ],
)
def test_a_hold_says_why(hold: ledger_pb2.Hold, of: auction_pb2.Auction | None, why: str, until_ms: int) -> None:
    """What it is for, what ends it, and when that is known."""
    reason = reason_of(hold, of, ME)
    assert why in reason.why
    assert reason.ends.endswith(".")
    assert (reason.until_ms, bool(reason.until), reason.auction) == (until_ms, bool(until_ms), hold.auction)


class FakeCells:
    """Each cell's number of active auctions, of which every hundredth is ME's; None: it is silent."""

    def __init__(self, **cells: int | None) -> None:
        self.cells, self.asked = cells, list[int]()

    async def once(self, cell: str, request: auction_pb2.ListAuctionsRequest) -> auction_pb2.ListAuctionsResponse:
        self.asked.append(request.page_size)
        active = self.cells[cell]
        if active is None:
            raise NoAnswer(cell)
        if request.state != auction_pb2.AUCTION_STATE_ACTIVE:
            return auction_pb2.ListAuctionsResponse()
        first = int(request.page_token or 0)
        end = min(first + request.page_size, active)
        page = [
            auction_pb2.Auction(name=f"{cell}/{number}", seller_user_id=OTHER if number % 100 else ME)
            for number in range(first, end)
        ]
        return auction_pb2.ListAuctionsResponse(auctions=page, next_page_token=str(end) if end < active else "")

    @property
    def reach(self) -> Reach:
        stubs = [SimpleNamespace(name=name, auctions=SimpleNamespace(ListAuctions=name)) for name in self.cells]
        return Reach(client=cast("Any", self), cells=cast("Any", stubs), listed=list(self.cells))


async def test_the_auctions_of_all_cells_are_looked_through() -> None:
    """Those of one seller are found on every page; a cell that has more, or does not answer, is named once."""
    cells = FakeCells(here=250, there=3 * PAGE, silent=None)
    found = await selling_of(cells.reach, ME, limit=2 * PAGE + 100)
    assert [auction.name for auction in found.auctions] == [
        *(f"here/{number}" for number in (0, 100, 200)),
        *(f"there/{number}" for number in range(0, 2 * PAGE + 100, 100)),
    ]
    assert (found.more, found.silent) == (["there"], ["silent"])
    assert max(cells.asked) == PAGE
    assert 100 in cells.asked
