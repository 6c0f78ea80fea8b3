"""Rows of the log as an auditor takes them: what is wrong with one is said, and nothing is trusted before."""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

import asyncpg

from cells import codec
from cells.codec import UnknownEvent
from cells.ports import EventRow
from cells.store_rows import event_of

# So many rows are checked before others in this process have their turn.
SLICE = 32
ROW_COLUMNS = len(EventRow._fields)
OTHER_LEAF = "the row is not the one that the log's tree was made from"
# What a payload that is no longer what some version of this program wrote may do to its reader.
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError)


class Checked(NamedTuple):
    """A row, and what is wrong with it: empty, where its bytes give its leaf hash and its payload can be read."""

    row: EventRow
    problem: str = ""


def checked_record(record: asyncpg.Record | tuple[Any, ...]) -> Checked:
    """Of a row's columns, and behind them, if it was asked for, the hash that the log's tree has in its place."""
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
    """Some at a time: to check a thousand takes as long as to decide a batch, which is not to wait for it."""
    found: list[Checked] = []
    for first in range(0, len(records), SLICE):
        found += map(checked_record, records[first : first + SLICE])
        await asyncio.sleep(0)
    return found


def checked(row: EventRow) -> Checked:
    return Checked(row, _problem(row))


def _problem(row: EventRow) -> str:
    if codec.leaf_hash(row) != bytes(row.leaf_hash):
        return "its bytes do not give its leaf hash: the row is not as it was written"
    try:
        codec.event_of(row)
    except UnknownEvent as error:
        return f"no event that this program knows: {error}"
    except UNREADABLE as error:
        return f"its payload cannot be read: {error!r}"
    return ""
