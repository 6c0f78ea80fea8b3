"""UUIDs as they come in: from the wire, the store and the id generator.

asyncpg's own class, which its rows hold anyway: a `uuid.UUID` in every respect, equal to one and with the same hash,
but written in C. To print, parse or compare the standard class takes up to ten times as long, and a command does so
some forty times.
"""

from typing import AnyStr
from uuid import UUID

from asyncpg.pgproto import pgproto


def uuid_from(source: AnyStr) -> UUID:
    """From its text or its 16 bytes. Raises ValueError."""
    return pgproto.UUID(source)
