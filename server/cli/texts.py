"""Times, accounts and amounts as text."""

from collections.abc import Mapping
from datetime import UTC, datetime

from cells.domain.values import CURRENCY_EXPONENTS

ID_TAIL = 6


def hlc_text(physical_ms: int, logical: int) -> str:
    """Time of day in UTC to the millisecond, then the logical counter."""
    at = datetime.fromtimestamp(physical_ms // 1000, UTC)
    return f"{at:%H:%M:%S}.{physical_ms % 1000:03}+{logical}"


def stamp_text(physical_ms: int, logical: int) -> str:
    """The same with the date."""
    return f"{datetime.fromtimestamp(physical_ms // 1000, UTC):%Y-%m-%d} {hlc_text(physical_ms, logical)}"


def wall_text(passed_us: int) -> str:
    """Microseconds since the Unix epoch as a time of day in UTC, to the microsecond."""
    return f"{datetime.fromtimestamp(passed_us // 1_000_000, UTC):%H:%M:%S}.{passed_us % 1_000_000:06}"


def account_text(account: str, names: Mapping[str, str]) -> str:
    """Writes "users/{uuid}/available" as "bidder 7 available", "escrow/{uuid}" as "escrow"."""
    kind, _, rest = account.partition("/")
    if kind == "users":
        user_id, _, bucket = rest.partition("/")
        return f"{names.get(user_id, user_id[-ID_TAIL:])} {bucket}"
    return kind if kind == "escrow" else account


def amount_text(amount_minor: int, currency: str, *, signed: bool = False) -> str:
    """12345 USD minor units as "123.45 USD", by the currency's exponent and without a float."""
    exponent = CURRENCY_EXPONENTS.get(currency, 0)
    units, rest = divmod(abs(amount_minor), 10**exponent)
    sign = "-" if amount_minor < 0 else "+" if signed else ""
    cents = f".{rest:0{exponent}}" if exponent else ""
    return f"{sign}{units:,}{cents} {currency}"
