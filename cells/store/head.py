"""The end of the log and its seal in the head row, read from PostgreSQL."""

from typing import TYPE_CHECKING

from cells.encoding.head_seal import HeadSeal, SealedHead
from cells.encoding.leaves import read_leaf
from cells.sql import queries

if TYPE_CHECKING:
    import asyncpg

SQL = queries("cells.sql", "store.sql")
EVENTS = queries("cells.sql", "reconcile.sql")["events"]


async def resume_seal(seal: HeadSeal, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Makes `seal` continue from the head row, which must be locked. Raises HeadNotProven."""
    [(position, since, sealed)] = await connection.fetch(SQL["sealed_head"])
    rows = await connection.fetch(EVENTS, since, position)
    seal.resume(SealedHead(position, since, sealed), [_leaf_of(row) for row in rows])


def _leaf_of(row: "asyncpg.Record") -> bytes:
    """The hash of the row's own bytes; empty for bytes that no log can hold."""
    try:
        return read_leaf(row["event_type"], row["leaf"]).leaf_hash
    except (ValueError, KeyError, TypeError, AttributeError):
        return b""
