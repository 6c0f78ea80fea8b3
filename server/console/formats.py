"""Texts on pages: amounts, moments in the visitor's zone with UTC beside, identifiers."""

from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from markupsafe import Markup, escape

from server.cli.texts import amount, utc

ID_HEAD, ID_TAIL = 8, 4
ZONE_CHARS_MAX = 64
_SECONDS, _MILLISECONDS = "seconds", "milliseconds"


def zone_of(name: str) -> ZoneInfo | None:
    """The zone that the browser has named; None: UTC, or there is no such zone."""
    return _zone(name) if len(name) <= ZONE_CHARS_MAX else None


@lru_cache(maxsize=1024)
def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name) if name and name != "UTC" else None
    except (ValueError, LookupError, OSError):
        return None


def moment(at_ms: int, zone: ZoneInfo | None = None, *, exact: bool = False) -> Markup:
    """Milliseconds since the Unix epoch: in the zone, with UTC beside it."""
    at, timespec = utc(at_ms * 1_000), _MILLISECONDS if exact else _SECONDS
    universal = f"{_text(at, timespec)} UTC"
    said = Markup('<time datetime="{}">{}</time>').format(at.isoformat().replace("+00:00", "Z"), universal)
    if zone is None:
        return said
    local = at.astimezone(zone)
    same_day = local.date() == at.date()
    beside = f"{_text(at, timespec).partition(' ')[2] if same_day else _text(at, timespec)} UTC"
    said = Markup('<time datetime="{}">{} {}</time>').format(at.isoformat(), _text(local, timespec), local.tzname())
    return said + Markup(' <span class="utc">({})</span>').format(beside)


def _text(at: datetime, timespec: str) -> str:
    return at.replace(tzinfo=None).isoformat(sep=" ", timespec=timespec)


def money(amount_minor: int, currency: str, *, signed: bool = False) -> Markup:
    """By the currency's exponent, with its code."""
    return Markup('<span class="money">{} {}</span>').format(amount(amount_minor, currency, signed=signed), currency)


def short(identifier: str) -> Markup:
    """The head and the tail of a long identifier; the whole as its title."""
    if len(identifier) <= ID_HEAD + ID_TAIL + 1:
        return Markup("<code>{}</code>").format(identifier)
    head, tail = identifier[:ID_HEAD], identifier[-ID_TAIL:]
    return Markup('<code title="{}">{}…{}</code>').format(identifier, head, tail)


def shown_reason(reason: str) -> str:
    """BID_TOO_LOW as "bid too low"."""
    return str(escape(reason.replace("_", " ").lower()))
