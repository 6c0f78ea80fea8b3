"""Moments, amounts, stamps and accounts as people write and read them."""

import time

import pytest

from cellbook.v1 import types_pb2
from server.cli.client import ClientError
from server.cli.texts import account_text, amount_text, hlc_text, parse_moment, point_text


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("", None),
        ("@0", types_pb2.AsOf(position=0)),
        ("@123456", types_pb2.AsOf(position=123_456)),
        ("1795598308313+65535", types_pb2.AsOf(hlc=types_pb2.HlcStamp(physical_ms=1_795_598_308_313, logical=65_535))),
        ("2026-11-22 14:23", types_pb2.AsOf(time_ms=1_795_357_380_000)),
        ("2026-11-22T14:23:00.001Z", types_pb2.AsOf(time_ms=1_795_357_380_001)),
        ("2026-11-22T15:23+01:00", types_pb2.AsOf(time_ms=1_795_357_380_000)),
        ("1969-12-31 23:59:59", types_pb2.AsOf(time_ms=-1_000)),
    ],
)
def test_moments_are_read(text: str, moment: types_pb2.AsOf | None) -> None:
    """Positions, stamps, and times, in UTC by default; an empty text means now."""
    assert parse_moment(text) == moment


@pytest.mark.parametrize(
    ("text", "ago_ms"), [("90s", 90_000), ("15m", 900_000), ("2h", 7_200_000), ("3d", 259_200_000)]
)
def test_how_long_ago_is_counted_from_now(text: str, ago_ms: int) -> None:
    """Within the second that the test may take."""
    moment = parse_moment(text)
    assert moment is not None
    assert 0 <= moment.time_ms - (time.time_ns() // 1_000_000 - ago_ms - 1_000) <= 1_000


@pytest.mark.parametrize(
    "text", ["yesterday", "@", "@-1", "@1.5", "3 d", "3w", "14:23", "1795598308313+", "+3", "-3d", "12"]
)
def test_what_is_no_moment_is_refused_with_what_is_one(text: str) -> None:
    """The message shows each valid form."""
    with pytest.raises(ClientError, match=r"2026-11-22 14:23.*15m.*@POSITION"):
        parse_moment(text)


@pytest.mark.parametrize(
    "text", ["2026-11-22 12:00:00.123456", "2026-11-22T12:00:00.1230001Z", "2026-11-22 12:00:00,0005+01:00"]
)
def test_a_moment_within_a_millisecond_is_refused_and_not_widened(text: str) -> None:
    """Events carry milliseconds: times within one cannot be distinguished. Trailing zeros are no finer."""
    with pytest.raises(ClientError, match=r"millisecond.*MS\+COUNTER"):
        parse_moment(text)
    assert parse_moment("2026-11-22 14:23:00.001000") == types_pb2.AsOf(time_ms=1_795_357_380_001)


def test_a_point_is_told_by_its_event() -> None:
    """Or it says that there was none."""
    stamp = types_pb2.HlcStamp(physical_ms=1_795_598_308_313, logical=2)
    told = point_text(types_pb2.AsOfPoint(cell="us-east", position=7, hlc=stamp))
    assert told == "after event us-east/7 of 2026-11-25 09:18:28.313+2 UTC"
    assert point_text(types_pb2.AsOfPoint(cell="us-east")) == "before the first event of us-east"


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
    assert hlc_text(types_pb2.HlcStamp(physical_ms=1_700_000_000_007, logical=3)) == "22:13:20.007+3"


def test_accounts_are_named_for_people() -> None:
    """Users by our label, or by the end of their id; escrow without its auction."""
    names = {"aaaa-bbbb": "seller 1"}
    assert account_text("users/aaaa-bbbb/pending", names) == "seller 1 pending"
    assert account_text("users/cccc-dddddd/pending", names) == "dddddd pending"
    assert account_text("escrow/some-auction", names) == "escrow"
    assert account_text("clearing/eu-west", names) == "clearing/eu-west"
