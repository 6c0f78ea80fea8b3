"""Times, moments, accounts and amounts as text."""

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from google.protobuf.message import Message

from cellbook.v1 import types_pb2
from cells.domain.time.hlc import Stamp
from cells.domain.values import CURRENCY_EXPONENTS
from server.cli.client import ClientError

ID_TAIL = 6
MOMENT = (
    "A time in UTC (2026-11-22 14:23, or with its offset), how long ago (90s, 15m, 2h, 3d), @POSITION, or MS+COUNTER."
)
_SPAN = re.compile(r"([0-9]{1,9})([smhd])")
_POSITION = re.compile(r"@([0-9]{1,18})")
_STAMP = re.compile(r"([0-9]{1,15})\+([0-9]{1,5})")
_UNITS_MS = {"d": 86_400_000, "h": 3_600_000, "min": 60_000, "m": 60_000, "s": 1_000}
# Events carry milliseconds and a counter, so a finer time has no meaning.
_TOO_FINE = re.compile(r"[.,][0-9]{3}[0-9]*[1-9]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# --- times ----------------------------------------------------------------------------------------------------------


def utc(passed_us: int) -> datetime:
    """The time that is so many microseconds after the Unix epoch."""
    return _EPOCH + timedelta(microseconds=passed_us)


def hlc_text(stamp: types_pb2.HlcStamp | Stamp) -> str:
    """Time of day in UTC to the millisecond, then the logical counter."""
    return f"{utc(stamp.physical_ms * 1_000):%H:%M:%S.%f}"[:-3] + f"+{stamp.logical}"


def stamp_text(stamp: types_pb2.HlcStamp | Stamp) -> str:
    """The same with the date."""
    return f"{utc(stamp.physical_ms * 1_000):%Y-%m-%d} {hlc_text(stamp)}"


def time_text(milliseconds: int) -> str:
    return f"{utc(milliseconds * 1_000):%Y-%m-%d %H:%M:%S.%f}"[:-3] + " UTC"


def span_text(milliseconds: int) -> str:
    """The two largest units: "3 d 2 h", "4 min 10 s", "7 s"."""
    left, counted = max(milliseconds, 0), list[tuple[int, str]]()
    for unit in ("d", "h", "min", "s"):
        count, left = divmod(left, _UNITS_MS[unit])
        counted.append((count, unit))
    first = next((place for place, (count, _) in enumerate(counted) if count), 0)
    return " ".join(f"{count} {unit}" for count, unit in counted[first : first + 2] if count) or "0 s"


def parse_span_ms(text: str) -> int | None:
    """The milliseconds of "90s", "15m", "2h" or "3d"; None: it is no such text."""
    found = _SPAN.fullmatch(text)
    return int(found[1]) * _UNITS_MS[found[2]] if found is not None else None


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def parse_moment(text: str) -> types_pb2.AsOf | None:
    """None: now. A time means all of its millisecond: 12:00 includes each event of 12:00:00.000. Raises ClientError."""
    if not text:
        return None
    if found := _POSITION.fullmatch(text):
        return types_pb2.AsOf(position=int(found[1]))
    if found := _STAMP.fullmatch(text):
        return types_pb2.AsOf(hlc=types_pb2.HlcStamp(physical_ms=int(found[1]), logical=int(found[2])))
    if (ago_ms := parse_span_ms(text)) is not None:
        return types_pb2.AsOf(time_ms=now_ms() - ago_ms)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ClientError(f"{text!r} is no moment: expected {MOMENT[0].lower()}{MOMENT[1:-1]}") from None
    if _TOO_FINE.search(text):
        raise ClientError(
            f"{text!r} is finer than a millisecond, which events carry: write three digits, for all of that "
            "millisecond, or MS+COUNTER, for one event of it"
        )
    # A time without an offset is in UTC, like all times in the output.
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return types_pb2.AsOf(time_ms=(at - _EPOCH) // timedelta(milliseconds=1))


def point_text(point: types_pb2.AsOfPoint) -> str:
    """The event that the point follows, for the line above a table."""
    if point.position == 0:
        return f"before the first event of {point.cell}"
    return f"after event {point.cell}/{point.position} of {stamp_text(point.hlc)} UTC"


# --- accounts and amounts -------------------------------------------------------------------------------------------


def account_text(account: str, names: Mapping[str, str]) -> str:
    """Writes "users/{uuid}/available" as "bidder 7 available", "escrow/{uuid}" as "escrow"."""
    kind, _, rest = account.partition("/")
    if kind == "users":
        user_id, _, bucket = rest.partition("/")
        return f"{names.get(user_id, user_id[-ID_TAIL:])} {bucket}"
    return kind if kind == "escrow" else account


def posting_text(posting: types_pb2.Posting, names: Mapping[str, str] = {}, *, signed: bool = True) -> str:
    """The account and the amount: "escrow +50.00 USD"."""
    return (
        f"{account_text(posting.account, names)} {amount_text(posting.amount_minor, posting.currency, signed=signed)}"
    )


def amount_text(amount_minor: int, currency: str, *, signed: bool = False) -> str:
    """12345 USD minor units as "123.45 USD", by the currency's exponent and without a float."""
    return f"{amount(amount_minor, currency, signed=signed)} {currency}"


def amount(amount_minor: int, currency: str, *, signed: bool = False) -> str:
    """Without the currency."""
    exponent = CURRENCY_EXPONENTS.get(currency, 0)
    units, rest = divmod(abs(amount_minor), 10**exponent)
    sign = "-" if amount_minor < 0 else "+" if signed else ""
    cents = f".{rest:0{exponent}}" if exponent else ""
    return f"{sign}{units:,}{cents}"


def enum_text(message: Message, field: str) -> str:
    """SAGA_STATE_RUNNING in a field as "running"."""
    return _texts_of(message.DESCRIPTOR.fields_by_name[field].enum_type)[getattr(message, field)]


def enum_choices(message: type[Message], field: str) -> dict[str, Any]:
    """The values that the field may have, by their texts, but for the unspecified one."""
    texts = _texts_of(message.DESCRIPTOR.fields_by_name[field].enum_type)
    return {text: number for number, text in texts.items() if number}


@cache
def _texts_of(declared: Any) -> dict[int, str]:  # noqa: ANN401 - there are descriptors for each implementation
    prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", declared.name).upper()
    return {
        number: value.name.removeprefix(f"{prefix}_").replace("_", " ").lower()
        for number, value in declared.values_by_number.items()
    }
