"""What the tree, its checkpoints and their witnesses need of the cell's database."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from cells.audit.frontier import Tile


class SignedCheckpoint(NamedTuple):
    """A signed note on the first `size` events; `lines` are the cosignatures of witnesses."""

    size: int
    root: bytes
    note: str
    signed_at: datetime
    lines: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The note as it is given away."""
        return self.note + "".join(self.lines)


class Witnessed(NamedTuple):
    """The last that this cell, as a witness, has seen and signed of another's log."""

    origin: str
    # The key that signs there: "name+id+key".
    key: str
    size: int
    root: bytes
    note: str
    cosigned_at: datetime


class WitnessMemory(Protocol):
    """What a witness has seen last of each log."""

    async def witnessed(self, origin: str) -> Witnessed | None: ...

    async def witness(self, seen: Witnessed, before: Witnessed | None) -> bool:
        """Keeps what was seen, if `before` still is the last; False where it is not."""


class ProofStore(WitnessMemory, Protocol):
    """Every method may raise StoreUnavailable. Hashes come side by side, 32 bytes each."""

    async def last_tile(self, level: int) -> int:
        """The place of the last full tile of a level; -1 where there is none."""

    async def tile(self, level: int, place: int) -> bytes | None:
        """Its 256 hashes, if it is full."""

    async def tile_roots(self, level: int, first: int, end: int) -> bytes:
        """The roots of a level's tiles from place `first` up to, not including, `end`."""

    async def leaf_hashes(self, first: int, end: int) -> bytes:
        """As they are stored with the events at positions `first` + 1 to `end`."""

    async def add_tiles(self, tiles: Sequence[Tile]) -> None: ...

    async def add_checkpoint(self, checkpoint: SignedCheckpoint) -> None: ...

    async def add_cosignature(self, size: int, witness: str, line: str, at: datetime) -> None:
        """Keeps the first of a witness for that size."""

    async def checkpoints(self, from_size: int, limit: int) -> list[SignedCheckpoint]:
        """From a size on, the smallest first."""

    async def last_checkpoint(self, size_max: int) -> SignedCheckpoint | None:
        """The largest one of at most that size."""

    async def last_cosigned(self) -> SignedCheckpoint | None: ...

    async def cosigned_size(self, witness: str) -> int:
        """The largest size that a witness has signed; 0 where it has none."""
