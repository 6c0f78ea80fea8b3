"""Seals each stored answer to a command with a key that the database does not have.

A refusal has no event, and an acceptance contains more than its event: without a seal, a change would go unnoticed. The
seal is BLAKE2b with a key (RFC 7693, 16 bytes) over the 16 bytes of the command id, the position, the stamp and the
outcome in canonical form, separated by blanks.
"""

from collections.abc import Iterable
from hashlib import blake2b
from uuid import UUID

from cells.encoding import codec
from cells.store.ports import OutcomeRow

# Separates this use of the key from others.
PURPOSE = b"cellbook outcome"
SEAL_BYTES = 16
TEXT = b"%b %d %d %d %b"


class OutcomeSeal:
    def __init__(self, key: bytes) -> None:
        self._keyed = blake2b(key=key, person=PURPOSE, digest_size=SEAL_BYTES)

    def of(self, command_id: UUID, outcome: str, position: int, hlc_physical: int, hlc_logical: int) -> bytes:
        """`outcome` in canonical form."""
        keyed = self._keyed.copy()
        keyed.update(TEXT % (command_id.bytes, position, hlc_physical, hlc_logical, outcome.encode()))
        return keyed.digest()

    def sealed(self, rows: Iterable[OutcomeRow]) -> list[tuple[object, ...]]:
        """The rows decided here, each with its seal. This is one loop because every command passes through it."""
        copy = self._keyed.copy
        found: list[tuple[object, ...]] = []
        for row in rows:
            keyed = copy()
            keyed.update(TEXT % (row[0].bytes, row[3], row[4], row[5], row[2].encode()))
            found.append((*row, keyed.digest()))
        return found

    def of_brought(self, row: OutcomeRow) -> bytes:
        """For a row from another cell, whose text need not be canonical."""
        return self.of(row[0], codec.recanonical(row.outcome), *row[3:6])
