"""Results of commands as they are stored: their bytes, and rows of every earlier version."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from cells.domain.auction.auction import AuctionState
from cells.domain.decision import Decision
from cells.domain.refusals import BidTooLow, Unavailable
from cells.domain.results import (
    STORED,
    BalanceAfter,
    Closed,
    HoldEnded,
    NewAsset,
    NewAuction,
    NewBid,
    NewHold,
    Result,
    Sold,
    UserMove,
)
from cells.requests import CommandState
from cells.store.outcomes import decided_outcome, outcome_of, refused_outcome
from cells.store.ports import OutcomeRow

ID, OTHER, THIRD = (UUID(int=number) for number in (1, 2, 3))
BALANCE: dict[str, Any] = {"currency": "USD", "available_minor": 2**62, "reserved_minor": 5, "pending_minor": 0}
MONEY = '"available_minor":"4611686018427387904","currency":"USD"'
REST = '"pending_minor":"0","reserved_minor":"5"'

TEXTS: list[tuple[Result, str]] = [
    (Result(), "{}"),
    (NewAsset(asset_id=ID), f'{{"asset_id":"{ID}"}}'),
    (NewAuction(auction_id=ID), f'{{"auction_id":"{ID}"}}'),
    (NewBid(bid_id=ID), f'{{"bid_id":"{ID}"}}'),
    (Closed(state=AuctionState.UNSOLD), '{"state":"UNSOLD"}'),
    (
        Sold(
            state=AuctionState.SETTLING,
            bid_id=ID,
            bidder_id=OTHER,
            bidder_cell="eu-west",
            currency="USD",
            amount_minor=500,
            saga_id=THIRD,
        ),
        (
            f'{{"amount_minor":"500","bid_id":"{ID}","bidder_cell":"eu-west","bidder_id":"{OTHER}","currency":"USD"'
            f',"saga_id":"{THIRD}","state":"SETTLING"}}'
        ),
    ),
    (BalanceAfter(**BALANCE), f"{{{MONEY},{REST}}}"),
    (NewHold(**BALANCE, hold_id=ID), f'{{{MONEY},"hold_id":"{ID}",{REST}}}'),
    (HoldEnded(**BALANCE, amount_minor=7), f'{{"amount_minor":"7",{MONEY},{REST}}}'),
    (UserMove(saga_id=ID, cell="eu-west", epoch="2"), f'{{"cell":"eu-west","epoch":"2","saga_id":"{ID}"}}'),
]


def row(outcome: str) -> OutcomeRow:
    return OutcomeRow(ID, b"", outcome, 1, 2, 3, datetime.fromtimestamp(0, UTC), None, "service/shop")


@pytest.mark.parametrize(("result", "text"), TEXTS, ids=[type(result).__name__ for result, _ in TEXTS])
def test_a_result_has_the_bytes_that_it_always_had(result: Result, text: str) -> None:
    """The seals of stored outcomes cover them; and rows are read by the programs of before and after an upgrade."""
    assert decided_outcome(Decision(result=result)) == f'{{"accepted":{text}}}'
    read = outcome_of(row(f'{{"accepted":{text}}}'), "us-east")
    assert (read.state, read.result) == (CommandState.ACCEPTED, result)
    begun = outcome_of(row(f'{{"in_progress": {text.replace(":", ": ")}}}'), "us-east")
    assert (begun.state, begun.result) == (CommandState.IN_PROGRESS, result)


def test_each_kind_of_result_is_tried() -> None:
    """A new one must be found among those with its fields."""
    assert {type(result) for result, _ in TEXTS} == set(STORED)


def test_fields_of_another_version_are_left_out() -> None:
    """The first programs stored the cell too; a later one may store more."""
    read = outcome_of(row(f'{{"accepted":{{"auction_id":"{ID}","cell":"us-east"}}}}'), "us-east")
    assert read.result == NewAuction(auction_id=ID)
    assert outcome_of(row('{"accepted":{"later":"1"}}'), "us-east").result == Result()


def test_a_refusal_is_read_as_it_was() -> None:
    """With its facts."""
    refused = BidTooLow(amount_minor=1, least_minor=2, currency="USD")
    read = outcome_of(row(refused_outcome(refused)), "us-east")
    assert read.refusal is not None
    assert (read.state, read.refusal.reason, read.refusal.facts) == ("REFUSED", "BID_TOO_LOW", refused.facts)


@pytest.mark.parametrize(
    "outcome",
    [
        "{}",
        '{"accepted":[]}',
        '{"accepted":{"bid_id":"junk"}}',
        '{"accepted":{},"refused":{}}',
        '{"done":{}}',
        '{"refused":{}}',
        '{"refused":{"facts":{},"reason":"OF_A_LATER_VERSION"}}',
        '{"refused":{"facts":[],"reason":"BID_TOO_LOW"}}',
    ],
)
def test_a_row_that_cannot_be_read_is_no_answer(outcome: str) -> None:
    """Another cell may have brought it. Whether the command was accepted is then unknown, which is not final."""
    with pytest.raises(Unavailable):
        outcome_of(row(outcome), "us-east")
