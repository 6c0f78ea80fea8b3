"""Values that requests of every service have: ids, names of cells, sizes of pages. A refusal names the field."""

from uuid import UUID

from cells.domain.time.vector import CELL_NAME
from cells.uuids import uuid_from
from server.shell.fields.bounds import NEW_USER, PAGE_SIZE, invalid, is_derived, number_in
from server.shell.fields.spelling import LENGTH, spelled

PAGE_DEFAULT = 100
PAGE_MAX = 1_000

NIL = uuid_from(bytes(16))


def parse_uuid(text: str, field: str) -> UUID:
    if not text:
        raise invalid(field, "is missing")
    try:
        parsed = uuid_from(text if len(text) == LENGTH else spelled(text))
    except ValueError:
        raise invalid(field, "is not a UUID", text) from None
    # The parser accepts more than the spellings of a UUID.
    if str(parsed) != text and str(parsed) != spelled(text):
        raise invalid(field, "is not a UUID", text)
    if parsed == NIL:
        raise invalid(field, "must not be the nil UUID", text)
    return parsed


def parse_optional_uuid(text: str, field: str) -> UUID | None:
    return parse_uuid(text, field) if text else None


def parse_new_user(text: str, field: str) -> UUID:
    """The id of a user who may be registered: none of those that are derived from others."""
    user_id = parse_uuid(text, field)
    if is_derived(user_id):
        raise invalid(field, f"must be {NEW_USER}", text)
    return user_id


def parse_cell(text: str, field: str) -> str:
    if not text:
        raise invalid(field, "is missing")
    if CELL_NAME.fullmatch(text) is None:
        raise invalid(field, "is not a cell's name", text)
    return text


def parse_page_size(size: int) -> int:
    """A page size above the maximum is reduced, as in AIP-158."""
    number_in(size, "page_size", PAGE_SIZE)
    return min(size, PAGE_MAX) or PAGE_DEFAULT
