"""A requested moment of the past, and the point of one cell's log that it maps to."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from cells.domain.time.hlc import LOGICAL_MAX, Stamp

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def time_text(time_ms: int) -> str:
    """The time in UTC, to the millisecond; for a time outside the calendar, the number of milliseconds."""
    try:
        return f"{_EPOCH + timedelta(milliseconds=time_ms):%Y-%m-%d %H:%M:%S}.{time_ms % 1_000:03} UTC"
    except OverflowError:
        return f"{time_ms} ms"


class Moment(NamedTuple):
    """Exactly one of the three is set. A time means the end of that millisecond, by the clock of the events."""

    position: int | None = None
    stamp: Stamp | None = None
    time_ms: int | None = None

    def last_stamp(self) -> Stamp | None:
        """The last stamp of the moment; None if it is a position."""
        return self.stamp if self.time_ms is None else Stamp(self.time_ms, LOGICAL_MAX)

    def __str__(self) -> str:
        if self.position is not None:
            return f"position {self.position}"
        if self.stamp is not None:
            return f"stamp {self.stamp.physical_ms}+{self.stamp.logical} ({time_text(self.stamp.physical_ms)})"
        return time_text(self.time_ms or 0)


class Point(NamedTuple):
    """The last event at or before a moment; position 0: there was no event yet."""

    position: int
    stamp: Stamp
    recorded_at_us: int


BEGINNING = Point(0, Stamp(0, 0), 0)
