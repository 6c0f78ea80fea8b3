"""Single fields of requests: ids, money, names, JSON. Each is checked here, and every refusal names the field."""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

from cellbook.v1 import types_pb2
from cells.domain.refusals import AmountNotPositive, UnknownCurrency, WrongCell
from cells.domain.time.hlc import Stamp
from cells.domain.time.vector import CELL_NAME
from cells.domain.values import CURRENCY_EXPONENTS, Money, money
from cells.encoding.codec import canonical, parsed
from server.shell.fields import bounds
from server.shell.fields.bounds import SHOWN_MAX, invalid, number_in
from server.shell.fields.parse import parse_cell, parse_uuid

CODE_LENGTH = 3
_NAME = re.compile(rf"cells/({CELL_NAME.pattern})/(assets|auctions)/([0-9A-Fa-f-]{{36}})")
# As JSON escapes it. A plain text may look the same.
_NUL = "\\u0000"


def parse_money(message: types_pb2.Money, field: str = "amount") -> Money:
    """An unset message field reads as an empty Money.

    Raises:
        FieldInvalid, UnknownCurrency, AmountNotPositive, AmountTooLarge.
    """
    currency = message.currency
    if not currency:
        raise invalid(f"{field}.currency" if message.amount_minor else field, "is missing")
    if len(currency) > CODE_LENGTH:
        raise invalid(f"{field}.currency", "is not an ISO 4217 code", currency)
    return money(currency, message.amount_minor, field=field)


def parse_amount(amount_minor: int, field: str) -> int:
    if amount_minor <= 0:
        raise AmountNotPositive(field=field, amount_minor=amount_minor)
    return amount_minor


def parse_currency(text: str, field: str) -> str:
    if text not in CURRENCY_EXPONENTS:
        raise UnknownCurrency(field=field, currency=text[:SHOWN_MAX])
    return text


def parse_stamp(message: types_pb2.HlcStamp, field: str) -> Stamp:
    return Stamp(
        number_in(message.physical_ms, f"{field}.physical_ms", bounds.STAMP),
        number_in(message.logical, f"{field}.logical", bounds.LOGICAL),
    )


def parse_optional_cell(text: str, field: str) -> str:
    return parse_cell(text, field) if text else ""


def parse_json(text: str, field: str) -> str:
    """Canonical JSON, as it is hashed and stored. NUL is searched in the parsed text, where escapes are resolved."""
    if not bounds.JSON.least <= len(text) <= bounds.JSON.most:
        raise invalid(field, f"must be {bounds.JSON}", len(text))
    try:
        content = parsed(text)
        as_stored = canonical(content)
    except (ValueError, RecursionError):
        raise invalid(field, "is no JSON", text) from None
    if not isinstance(content, dict) or as_stored != text:
        raise invalid(field, "is not canonical", text)
    if _NUL in text and any("\x00" in said for said in _texts_in(content)):
        raise invalid(field, "holds a NUL, which no database stores", text)
    return text


def _texts_in(content: object) -> Iterator[str]:
    match content:
        case str():
            yield content
        case list():
            for each in content:
                yield from _texts_in(each)
        case dict():
            for key, value in content.items():
                yield key
                yield from _texts_in(value)
        case _:
            pass


# --- names of resources -----------------------------------------------------------------------------------------------


class Name(NamedTuple):
    """The parts of "cells/{cell}/{collection}/{uuid}"."""

    cell: str
    id: UUID


# Many bid in the same auction.
@lru_cache(maxsize=4096)
def parse_name(text: str, field: str, collection: str) -> Name:
    if not text:
        raise invalid(field, "is missing")
    found = _NAME.fullmatch(text)
    if found is None or found[2] != collection:
        raise invalid(field, f"is not a name: expected 'cells/{{cell}}/{collection}/{{uuid}}'", text)
    return Name(found[1], parse_uuid(found[3], field))


def parse_local_id(text: str, field: str, collection: str, here: str) -> UUID:
    """The id in the name of something that lives here. Raises WrongCell if it lives elsewhere."""
    name = parse_name(text, field, collection)
    if name.cell != here:
        raise WrongCell(resource=text, cell=name.cell, here=here)
    return name.id


def asset_name(cell: str, asset_id: UUID | str) -> str:
    return f"cells/{cell}/assets/{asset_id}"


def auction_name(cell: str, auction_id: UUID | str) -> str:
    return f"cells/{cell}/auctions/{auction_id}"


def parse_auction_name(text: str, field: str) -> str:
    """The name in its one spelling."""
    return auction_name(*parse_name(text, field, "auctions"))
