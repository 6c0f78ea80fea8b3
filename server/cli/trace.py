"""One flow, event by event: the logs of all cells merged by HLC, each event with its cause and postings."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cellbook.v1 import event_pb2
from cells.domain.values import CURRENCY_EXPONENTS

ID_TAIL = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRow:
    number: int
    cell: str
    position: int
    hlc: str
    event_type: str
    # The saga leg that the event belongs to, if any.
    leg: str
    event_id: str
    # Number of the event that caused this one; None if it is outside the flow.
    cause: int | None
    # The end of the cause's id; empty if a client began the flow.
    cause_id: str
    postings: tuple[str, ...]


def trace_rows(events: Sequence[event_pb2.Event], names: Mapping[str, str]) -> list[TraceRow]:
    """`events` in order, the flow's first event first. `names`: user id -> label."""
    numbers = {event.event_id: number for number, event in enumerate(events, start=1)}
    return [
        TraceRow(
            number=number,
            cell=event.cell,
            position=event.position,
            hlc=hlc_text(event.hlc.physical_ms, event.hlc.logical),
            event_type=event.event_type,
            leg=str(json.loads(event.payload_json).get("leg", "")),
            event_id=event.event_id[-ID_TAIL:],
            cause=numbers.get(event.causation_id),
            cause_id=event.causation_id[-ID_TAIL:],
            postings=tuple(
                f"{account_text(posting.account, names)} "
                f"{amount_text(posting.amount_minor, posting.currency, signed=True)}"
                for posting in event.postings
            ),
        )
        for number, event in enumerate(events, start=1)
    ]


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
