"""A flow in the form for people."""

import pytest

from cellbook.v1 import event_pb2
from cellbook.v1.types_pb2 import HlcStamp, Posting
from lab.checks import order
from lab.report import trace_rows
from server.cli.texts import account_text, amount_text, hlc_text


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


@pytest.mark.parametrize(
    ("amount_minor", "currency", "text"),
    [
        (123_456, "USD", "1,234.56 USD"),
        (-5, "USD", "-0.05 USD"),
        (180_000, "JPY", "180,000 JPY"),
        (1_001, "BHD", "1.001 BHD"),
        (2**63 - 1, "USD", "92,233,720,368,547,758.07 USD"),
        (7, "XYZ", "7 XYZ"),
    ],
)
def test_amounts_are_written_by_their_currency(amount_minor: int, currency: str, text: str) -> None:
    """With as many decimals as the currency has, exact at any size; an unknown currency has none."""
    assert amount_text(amount_minor, currency) == text


def test_stamps_show_time_and_counter() -> None:
    """Time of day in UTC to the millisecond, and the logical counter."""
    assert hlc_text(1_700_000_000_007, 3) == "22:13:20.007+3"


def test_accounts_are_named_for_people() -> None:
    """Users by our label, or by the end of their id; escrow without its auction."""
    names = {"aaaa-bbbb": "seller 1"}
    assert account_text("users/aaaa-bbbb/pending", names) == "seller 1 pending"
    assert account_text("users/cccc-dddddd/pending", names) == "dddddd pending"
    assert account_text("escrow/some-auction", names) == "escrow"
    assert account_text("clearing/eu-west", names) == "clearing/eu-west"
