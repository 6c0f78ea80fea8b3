"""What was measured: figures beside their yardsticks, as a table and as JSON."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

AIMED, REACHED, MISSED = "aim", "yes", "no"

CAPTION = "p50/p99: milliseconds a call. reach/aim: of the ratio, or (< >) of the value."


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the figure is to reach, and what it aims at: of the ratio, or of the value (`at_most`, `at_least`)."""

    to_reach: float | None = None
    aim: float | None = None
    at_most: bool = False
    at_least: bool = False

    def __str__(self) -> str:
        sign = "<" if self.at_most else ">" if self.at_least else ""
        return "/".join("-" if bound is None else f"{sign}{_short(bound)}" for bound in (self.to_reach, self.aim))


TARGETS = {
    "batch_bids": Target(to_reach=2.5, aim=3.5),
    "unary_bids": Target(to_reach=0.45, aim=0.7),
    "cpu_per_bid": Target(),
    "unary_grouped": Target(to_reach=2.0, aim=4.0),
    "hot_auction": Target(to_reach=0.8, aim=1.2),
    "subscribers": Target(to_reach=0.95),
    "watched_bids": Target(to_reach=0.91),
    "grown_store": Target(to_reach=0.85, aim=1.0),
    "settlements": Target(aim=0.1),
    "engines": Target(to_reach=5.0, aim=15.0),
    "recovery_47": Target(to_reach=30.0, at_most=True),
    "recovery_1000": Target(),
    "recovery_10000": Target(to_reach=60.0, at_most=True),
    "resident_memory": Target(to_reach=400.0, aim=250.0, at_most=True),
    "takeover": Target(to_reach=3.0, at_most=True),
    "proxied_calls": Target(),
    "move_large": Target(to_reach=1.0, at_most=True),
    "drain": Target(),
    "time_travel": Target(to_reach=10.0, at_most=True),
    "reconcile_sql": Target(to_reach=300_000, at_least=True),
    "reconcile_fold": Target(to_reach=50_000, aim=150_000, at_least=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    name: str
    value: float
    unit: str
    yardstick: str = ""
    yardstick_value: float | None = None
    # Keys that say more: rounds, p50_ms, what was different this time.
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        return self.value / self.yardstick_value if self.yardstick_value else None

    @property
    def quantiles(self) -> str:
        """How long calls took, half of them and 99 in 100, where calls were measured."""
        if "p50_ms" not in self.extra:
            return ""
        return f"{number(self.extra['p50_ms'])}/{number(self.extra['p99_ms'])}"

    @property
    def verdict(self) -> str:
        """Of the target: "aim", "yes" or "no"; empty where there is none to be held to."""
        target = TARGETS.get(self.name, Target())
        shown = self.value if target.at_most or target.at_least else self.ratio
        if shown is None:
            return ""
        sign = -1 if target.at_most else 1
        if target.aim is not None and sign * shown >= sign * target.aim:
            return AIMED
        if target.to_reach is None:
            return ""
        return REACHED if sign * shown >= sign * target.to_reach else MISSED

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "value": rounded(self.value),
            "unit": self.unit,
            "yardstick": self.yardstick,
            "yardstick_value": rounded(self.yardstick_value),
            "ratio": rounded(self.ratio),
            **{key: rounded(value) for key, value in self.extra.items()},
        }


def compared(
    name: str, unit: str, values: Sequence[float], yardstick: str, yardsticks: Sequence[float], **extra: float | str
) -> Figure:
    """The medians of rounds that took turns; the rounds are kept."""
    return Figure(
        name=name,
        value=median(values),
        unit=unit,
        yardstick=yardstick,
        yardstick_value=median(yardsticks),
        extra={"rounds": list(values), "yardstick_rounds": list(yardsticks), **extra},
    )


def quantile(values: Iterable[float], share: float) -> float:
    """`share` of the values are at most as large; 0 where there are none."""
    ordered = sorted(values)
    return ordered[int(share * (len(ordered) - 1))] if ordered else 0.0


def rounded(value: Any) -> Any:  # noqa: ANN401 - what JSON holds
    """To four digits at least: more would be noise."""
    match value:
        case float():
            return round(value) if abs(value) >= 1_000 else float(f"{value:.4g}")
        case list():
            return [rounded(each) for each in value]
        case _:
            return value


def save(path: Path, figures: Iterable[Figure]) -> None:
    path.write_text(json.dumps([figure.as_json() for figure in figures], indent=2) + "\n")


def table(figures: Sequence[Figure]) -> Table:
    """With what was different this time below it."""
    notes = dict.fromkeys(figure.extra["note"] for figure in figures if "note" in figure.extra)
    caption = "\n".join([CAPTION, *notes])
    shown = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, caption=caption, caption_justify="left")
    for heading in ("figure", "value", "p50/p99", "yardstick", "ratio", "reach/aim", "met"):
        shown.add_column(heading, justify="left" if heading in ("figure", "met") else "right", no_wrap=True)
    for figure in figures:
        target = TARGETS.get(figure.name, Target())
        shown.add_row(
            figure.name,
            number(figure.value, f" {figure.unit}"),
            figure.quantiles,
            number(figure.yardstick_value, f" {figure.yardstick}"),
            "" if figure.ratio is None else f"{figure.ratio:.2f}",
            str(target),
            _COLOURS[figure.verdict],
        )
    return shown


_COLOURS = {AIMED: "[green]aim[/green]", REACHED: "[green]yes[/green]", MISSED: "[red]no[/red]", "": ""}


def _short(bound: float) -> str:
    return f"{bound / 1_000:g}k" if bound >= 10_000 else f"{bound:g}"


def number(value: float | None, unit: str = "") -> str:
    """For people: three digits at least."""
    if value is None:
        return ""
    return f"{value:,.0f}{unit}" if abs(value) >= 100 else f"{value:.3g}{unit}"
