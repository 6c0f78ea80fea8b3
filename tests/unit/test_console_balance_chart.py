"""The step chart of a balance, and what the console's scripts must have in common with the ledger."""

import re
from pathlib import Path

import pytest

import server.console
from cellbook.v1 import audit_pb2, ledger_pb2, types_pb2
from cells.domain.values import CURRENCY_EXPONENTS
from server.cli.texts import amount_text
from server.console.auditor.balance_chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, chart_of

FLOOR = HEIGHT - BOTTOM
END = WIDTH - RIGHT


def balance(available_minor: int, currency: str = "USD", reserved_minor: int = 0) -> ledger_pb2.Balance:
    return ledger_pb2.Balance(currency=currency, available_minor=available_minor, reserved_minor=reserved_minor)


def movement(at_ms: int, after: ledger_pb2.Balance) -> audit_pb2.Movement:
    return audit_pb2.Movement(hlc=types_pb2.HlcStamp(physical_ms=at_ms), after=after)


def total(opening: ledger_pb2.Balance, closing: ledger_pb2.Balance) -> audit_pb2.StatementTotal:
    return audit_pb2.StatementTotal(opening=opening, closing=closing)


def test_a_balance_is_a_line_of_steps() -> None:
    """It stays until the movement, and then to the end of the time."""
    chart = chart_of(total(balance(0), balance(1_000)), [movement(500, balance(1_000))], 0, 1_000, 500)
    middle = LEFT + (END - LEFT) // 2
    available = next(line for line in chart.lines if line.bucket == "available")
    assert available.path.startswith(f"M{LEFT} {FLOOR}")
    assert f"H{middle}V{TOP}" in available.path
    assert available.path.endswith(f"H{END}")
    assert chart.mark == middle
    pending = next(line for line in chart.lines if line.bucket == "pending")
    assert set(re.findall(r"V(\d+)", pending.path)) == {str(FLOOR)}


def test_many_movements_within_a_pixel_keep_their_extremes() -> None:
    """The path is short however many there are, and shows the highest."""
    movements = [movement(each, balance(9_000 if each == 50_000 else 10)) for each in range(100_000)]
    chart = chart_of(total(balance(0), balance(10)), movements, 0, 100_000, 0)
    path = chart.lines[0].path
    assert f"V{FLOOR - 9_000 * (FLOOR - TOP) // 10_000}" in path
    assert len(path) < 25 * WIDTH


def test_other_currencies_are_not_in_it() -> None:
    """Each currency has a chart of its own."""
    chart = chart_of(total(balance(0, "JPY"), balance(7, "JPY")), [movement(1, balance(10**6))], 0, 2, 0)
    assert chart.currency == "JPY"
    assert [label.text for label in chart.amounts] == ["0", "1"]


@pytest.mark.parametrize(
    ("top", "texts"),
    [
        (0, ["0.00", "0.01"]),
        (3, ["0.00", "0.01", "0.02", "0.03"]),
        (99_999, ["0.00", "500.00", "1,000.00"]),
        (2**62, ["0.00", "20,000,000,000,000,000.00", "40,000,000,000,000,000.00", "60,000,000,000,000,000.00"]),
    ],
)
def test_amounts_are_round_and_few(top: int, texts: list[str]) -> None:
    """At any size, exact."""
    chart = chart_of(total(balance(top), balance(top)), [], 0, 1, 0)
    assert [label.text for label in chart.amounts] == texts
    assert all(TOP <= label.at <= FLOOR for label in chart.amounts)


@pytest.mark.parametrize(("end_ms", "last"), [(1_000, "00:00:01"), (3 * 86_400_000, "1970-01-04")])
def test_times_are_as_fine_as_the_span(end_ms: int, last: str) -> None:
    """Times of day within a day, otherwise dates."""
    chart = chart_of(total(balance(1), balance(1)), [], 0, end_ms, end_ms + 5)
    assert chart.times[-1].text == last
    assert (chart.times[-1].at, chart.mark) == (END, END)


def test_the_proof_in_the_browser_knows_every_currency() -> None:
    """Currencies that do not have two decimals are named in proof.js, each with as many as the ledger gives it."""
    script = (Path(server.console.__file__).parent / "static" / "proof.js").read_text("utf-8")
    listed = re.search(r"EXPONENTS = \{(.*?)\}", script)
    assert listed is not None
    exponents = {code: int(digits) for code, digits in re.findall(r"([A-Z]{3}): (\d)", listed[1])}
    assert exponents == {code: digits for code, digits in CURRENCY_EXPONENTS.items() if digits != 2}
    assert amount_text(5, "BHD", signed=True) == "+0.005 BHD"
