"""UUIDs from the wire, the store and the id generator.

They use asyncpg's own class, which its rows contain anyway: equal to a `uuid.UUID` in every respect, with the same
hash, but written in C. The standard class takes up to ten times as long to print, parse or compare, which each command
does some forty times.
"""

from typing import TYPE_CHECKING, cast

from asyncpg.pgproto import pgproto

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

# From its text or its 16 bytes. Raises ValueError.
uuid_from = cast("Callable[[str | bytes], UUID]", pgproto.UUID)
