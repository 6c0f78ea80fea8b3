"""UUIDs as they come in: from the wire, the store and the id generator.

asyncpg's own class, which its rows hold anyway: a `uuid.UUID` in every respect, equal to one and with the same hash,
but written in C. To print, parse or compare the standard class takes up to ten times as long, and a command does so
some forty times.
"""

from typing import TYPE_CHECKING, cast

from asyncpg.pgproto import pgproto

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

# From its text or its 16 bytes. Raises ValueError.
uuid_from = cast("Callable[[str | bytes], UUID]", pgproto.UUID)
