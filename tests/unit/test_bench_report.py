"""The report of a benchmark's measurements."""

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tests.bench.report import TARGETS, Figure, compared, rounded, save, table


def figure(name: str, value: float, yardstick_value: float | None = None) -> Figure:
    return Figure(name=name, value=value, unit="bids/s", yardstick="echo", yardstick_value=yardstick_value)


def test_rounds_come_to_their_medians() -> None:
    """Each side has its own median; the rounds are kept."""
    made = compared("batch_bids", "bids/s", [10.0, 30.0, 20.0], "TPC-B", [4.0, 8.0, 5.0], p50_ms=1.5)
    assert (made.value, made.yardstick_value, made.ratio) == (20.0, 5.0, 4.0)
    assert made.extra == {"rounds": [10.0, 30.0, 20.0], "yardstick_rounds": [4.0, 8.0, 5.0], "p50_ms": 1.5}


@pytest.mark.parametrize(
    ("shown", "verdict"),
    [
        (figure("batch_bids", 24, 10), "no"),
        (figure("batch_bids", 25, 10), "yes"),
        (figure("batch_bids", 35, 10), "aim"),
        (figure("resident_memory", 400.5), "no"),
        (figure("resident_memory", 400), "yes"),
        (figure("resident_memory", 249), "aim"),
        (figure("takeover", 2.5), "yes"),
        (figure("reconcile_fold", 49_999), "no"),
        (figure("reconcile_fold", 50_000), "yes"),
        (figure("reconcile_fold", 150_000), "aim"),
        (figure("settlements", 9, 100), ""),
        (figure("settlements", 10, 100), "aim"),
        (figure("batch_bids", 24), ""),
        (figure("unheard_of", 24, 10), ""),
    ],
)
def test_verdicts(shown: Figure, verdict: str) -> None:
    """A ratio must be high, and a bounded value low."""
    assert shown.verdict == verdict


def test_json_has_the_keys_that_were_promised(tmp_path: Path) -> None:
    """A list with six keys each, and further information."""
    path = tmp_path / "bench.json"
    save(path, [compared("unary_bids", "bids/s", [1234.567], "echo", [3000.0], note="small"), figure("takeover", 2.5)])
    assert json.loads(path.read_text()) == [
        {
            "name": "unary_bids", "value": 1235, "unit": "bids/s",
            "yardstick": "echo", "yardstick_value": 3000, "ratio": 0.4115,
            "rounds": [1235], "yardstick_rounds": [3000], "note": "small",
        },
        {
            "name": "takeover", "value": 2.5, "unit": "bids/s",
            "yardstick": "echo", "yardstick_value": None, "ratio": None,
        },
    ]  # fmt: skip


def test_rounding() -> None:
    """To four digits; integers are unchanged."""
    assert rounded([0.123456, 12345.6, 7, None, "text"]) == [0.1235, 12346, 7, None, "text"]


def test_the_table_fits_a_terminal() -> None:
    """Every figure with its target, nothing cut off, in 80 columns."""
    shown = StringIO()
    console = Console(width=80, file=shown)
    measured = [compared(name, "bids/s", [12345.6], "TPC-B", [3210.0], p50_ms=123.4, p99_ms=234.5) for name in TARGETS]
    console.print(table(measured))
    text = shown.getvalue()
    assert all(name in text for name in TARGETS)
    assert "12,346 bids/s" in text
    assert "123/234" in text
    assert "3,210 TPC-B" in text
    assert "…" not in text


def test_the_table_says_what_was_different() -> None:
    """It appears once, however many figures it applies to."""
    shown = StringIO()
    small = [compared(name, "bids/s", [1.0], "empty", [1.0], note="a small store") for name in TARGETS]
    Console(width=80, file=shown).print(table(small))
    assert shown.getvalue().count("a small store") == 1
