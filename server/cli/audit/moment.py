"""Parses a moment as users write it: a date and time, how long ago, @position, or a stamp."""

import re
import time
from datetime import UTC, datetime, timedelta

from cellbook.v1 import types_pb2
from server.cli.client import ClientError
from server.cli.texts import stamp_text

HELP = (
    "A time in UTC (2026-11-22 14:23, or with its offset), how long ago (90s, 15m, 2h, 3d), @POSITION, or MS+COUNTER."
)

_AGO = re.compile(r"([0-9]{1,9})([smhd])")
_POSITION = re.compile(r"@([0-9]{1,18})")
_STAMP = re.compile(r"([0-9]{1,15})\+([0-9]{1,5})")
_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
# Events carry milliseconds and a counter, so a finer time has no meaning.
_TOO_FINE = re.compile(r"[.,][0-9]{3}[0-9]*[1-9]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_moment(text: str) -> types_pb2.AsOf | None:
    """None: now. A time means all of its millisecond: 12:00 includes each event of 12:00:00.000. Raises ClientError."""
    if not text:
        return None
    if found := _POSITION.fullmatch(text):
        return types_pb2.AsOf(position=int(found[1]))
    if found := _STAMP.fullmatch(text):
        return types_pb2.AsOf(hlc=types_pb2.HlcStamp(physical_ms=int(found[1]), logical=int(found[2])))
    if found := _AGO.fullmatch(text):
        return types_pb2.AsOf(time_ms=time.time_ns() // 1_000_000 - int(found[1]) * _UNITS_MS[found[2]])
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ClientError(f"{text!r} is no moment: expected {HELP[0].lower()}{HELP[1:-1]}") from None
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
    stamp = stamp_text(point.hlc.physical_ms, point.hlc.logical)
    return f"after event {point.cell}/{point.position} of {stamp} UTC"
