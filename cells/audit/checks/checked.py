"""Rows of the log with the problem of each: no row is trusted before it is checked."""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

import asyncpg

from cells.domain.events import AnyEvent
from cells.encoding import codec
from cells.encoding.codec import UnknownEvent
from cells.store.ports import EventRow
from cells.store.rows import event_of

# Rows checked before other tasks of this process run.
SLICE = 32
ROW_COLUMNS = len(EventRow._fields)
OTHER_LEAF = "the row is not the one that the log's tree was made from"
# Errors that a payload may cause if no version of this program wrote it.
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError)


class Checked(NamedTuple):
    """A row, its problem (empty if its bytes give its leaf hash and its payload can be read), and then its event."""

    row: EventRow
    problem: str = ""
    event: AnyEvent | None = None


def checked_record(record: asyncpg.Record | tuple[Any, ...]) -> Checked:
    """Checks a record: the row's columns, then optionally the hash at its position in the log's tree."""
    columns, noted = tuple(record)[:ROW_COLUMNS], tuple(record)[ROW_COLUMNS:]
    try:
        row = event_of(columns)
    except UNREADABLE as error:
        return Checked(EventRow(*columns), f"its JSON is none that the log can hold: {error}")
    found = checked(row)
    if not found.problem and noted and noted[0] not in {None, row.leaf_hash}:
        return Checked(row, OTHER_LEAF)
    return found


async def checked_records(records: Sequence[asyncpg.Record | tuple[Any, ...]]) -> list[Checked]:
    """Checks records in slices: a thousand take as long as deciding a batch, which must not wait for them."""
    found: list[Checked] = []
    for first in range(0, len(records), SLICE):
        found += map(checked_record, records[first : first + SLICE])
        await asyncio.sleep(0)
    return found


def checked(row: EventRow) -> Checked:
    if codec.leaf_hash(row) != bytes(row.leaf_hash):
        return Checked(row, "its bytes do not give its leaf hash: the row is not as it was written")
    try:
        return Checked(row, event=codec.event_of(row))
    except UnknownEvent as error:
        return Checked(row, f"no event that this program knows: {error}")
    except UNREADABLE as error:
        return Checked(row, f"its payload cannot be read: {error!r}")
