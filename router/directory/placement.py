"""Chooses the cell of a new user: weighted rendezvous hashing.

Every cell is scored for the user, and the highest score wins. There is no state and no slot table; a new cell
added takes its own share of users from the others and moves nobody between them.

Rendezvous hashing: D. Thaler, C. Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM
Transactions on Networking 6(1), 1998. The weights, score = -weight / ln(hash), are the logarithmic method of
C. Schindelhauer, G. Schomaker, "Weighted distributed hash tables", SPAA 2005.

The directory decides where a user lives. Placement runs once, for a new user, so nothing depends on two machines
computing the same logarithm to the last bit.
"""

import hashlib
import math
from collections.abc import Iterable
from uuid import UUID

from router.directory.topology import Cell

# One bit less than a float's mantissa: with the half added below, the value is still exact and never rounds up to 1.
_HASH_BITS = 52


def place(user_id: UUID, cells: Iterable[Cell]) -> Cell | None:
    """The cell for this user; None if no cell has any weight. The order of `cells` does not matter."""
    weighted = (cell for cell in cells if cell.weight > 0)
    return max(weighted, key=lambda cell: (_score(user_id, cell), cell.name), default=None)


def _score(user_id: UUID, cell: Cell) -> float:
    return -cell.weight / math.log(_uniform(user_id, cell.name))


def _uniform(user_id: UUID, cell_name: str) -> float:
    """A number strictly between 0 and 1, as if drawn at random for this pair."""
    # Sixteen bytes and then the name, so no two pairs have the same bytes.
    digest = hashlib.sha256(user_id.bytes + cell_name.encode()).digest()
    return ((int.from_bytes(digest[:8]) >> (64 - _HASH_BITS)) + 0.5) / (1 << _HASH_BITS)
