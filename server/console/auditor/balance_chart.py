"""A step chart of a balance over time, from the movements of a statement. Integers only: a drawing is exact, too."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from cellbook.v1 import audit_pb2
from server.cli.audit.statement import BUCKETS, buckets
from server.cli.texts import amount, utc

# Pixels: of the whole, and of the margins for the labels.
WIDTH, HEIGHT = 760, 240
LEFT, RIGHT, TOP, BOTTOM = 110, 12, 12, 34
X_LABELS, Y_LABELS_MAX = 4, 4
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    bucket: str
    # The data of an SVG path.
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    # Pixels from the left, or from the top.
    at: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    currency: str
    begin_ms: int
    end_ms: int
    lines: Sequence[Line]
    times: Sequence[Label]
    amounts: Sequence[Label]
    # Pixels from the left: the moment that the page is about.
    mark: int
    # Pixels: of the whole, and the edges of the drawing in it.
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


@dataclass(frozen=True, slots=True)
class Step:
    """From this time on, the amounts of the buckets."""

    at_ms: int
    amounts_minor: tuple[int, ...]


def chart_of(
    total: audit_pb2.StatementTotal, movements: Iterable[audit_pb2.Movement], begin_ms: int, end_ms: int, mark_ms: int
) -> Chart:
    """The movements of the total's currency. All times are by the clock that events carry."""
    currency = total.closing.currency
    steps = [Step(begin_ms, buckets(total.opening))]
    steps += [Step(each.hlc.physical_ms, buckets(each.after)) for each in movements if each.after.currency == currency]
    end_ms = max(end_ms, begin_ms + 1)
    top = max(max(step.amounts_minor) for step in steps)
    interval = _interval(top)
    highest = max(interval, -(-top // interval) * interval)
    return Chart(
        currency=currency,
        begin_ms=begin_ms,
        end_ms=end_ms,
        lines=[
            Line(bucket=bucket, path=_path(steps, place, highest, begin_ms, end_ms))
            for place, bucket in enumerate(BUCKETS)
        ],
        times=list(_times(begin_ms, end_ms)),
        amounts=[Label(at=_y(each, highest), text=amount(each, currency)) for each in range(0, highest + 1, interval)],
        mark=_x(min(max(mark_ms, begin_ms), end_ms), begin_ms, end_ms),
    )


def _path(steps: Sequence[Step], bucket: int, highest: int, begin_ms: int, end_ms: int) -> str:
    """Of all steps within one pixel, the first, the lowest, the highest and the last are drawn."""
    drawn = ""
    for x, here in groupby(steps, key=lambda step: _x(step.at_ms, begin_ms, end_ms)):
        heights = [_y(step.amounts_minor[bucket], highest) for step in here]
        drawn += f"H{x}" if drawn else f"M{x} {heights[0]}"
        drawn += "".join(f"V{height}" for height in (heights[0], min(heights), max(heights), heights[-1]))
    return f"{drawn}H{_x(end_ms, begin_ms, end_ms)}"


def _x(at_ms: int, begin_ms: int, end_ms: int) -> int:
    return LEFT + (min(at_ms, end_ms) - begin_ms) * (WIDTH - LEFT - RIGHT) // (end_ms - begin_ms)


def _y(amount_minor: int, highest: int) -> int:
    return HEIGHT - BOTTOM - amount_minor * (HEIGHT - TOP - BOTTOM) // highest


def _interval(top: int) -> int:
    """1, 2 or 5 times a power of ten, so that few labels reach the top."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            if factor * power * Y_LABELS_MAX >= top:
                return factor * power
        power *= 10


def _times(begin_ms: int, end_ms: int) -> Iterator[Label]:
    """In UTC: times of day within a day, otherwise dates."""
    form = "%H:%M:%S" if end_ms - begin_ms < DAY_MS else "%Y-%m-%d"
    for place in range(X_LABELS):
        at_ms = begin_ms + (end_ms - begin_ms) * place // (X_LABELS - 1)
        yield Label(at=_x(at_ms, begin_ms, end_ms), text=f"{utc(at_ms * 1_000):{form}}")
