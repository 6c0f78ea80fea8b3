"""Small charts of the last minutes, as the points of an SVG line."""

from collections.abc import Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 160, 36


class Chart(NamedTuple):
    """`points` for a polyline in a box of WIDTH and HEIGHT; empty: there is nothing to draw yet."""

    title: str
    points: str
    last: float
    most: float

    @property
    def text(self) -> str:
        """The chart in words, for those who do not see it."""
        if not self.points:
            return f"{self.title}: not known yet"
        return f"{self.title}: {_said(self.last)} now, {_said(self.most)} at most"


def _said(value: float) -> str:
    return f"{value:,.1f}" if 0 < value < 10 else f"{value:,.0f}"  # noqa: PLR2004 - one digit


def chart(title: str, values: Sequence[tuple[float, float]], span_s: float) -> Chart:
    """Of values by age in seconds, the oldest first; the newest is at the right edge, `span_s` at the left one."""
    if len(values) < 2:  # noqa: PLR2004 - a line has two ends
        return Chart(title, "", 0.0, 0.0)
    most = max(value for _, value in values)
    points = " ".join(
        f"{WIDTH * (1 - min(age_s, span_s) / span_s):.1f},{(HEIGHT - 1) * (1 - value / (most or 1.0)) + 0.5:.1f}"
        for age_s, value in values
    )
    return Chart(title, points, values[-1][1], most)
