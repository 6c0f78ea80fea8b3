"""The database ports of the tree, its checkpoints and their witnesses, and of exports."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from cells.audit.verify.tree import Tile
from cells.moves.user_bundle import MovedEvent
from cells.store.outcomes import OutcomePlace
from cells.store.ports import EventRow, OutcomeRow


class SignedCheckpoint(NamedTuple):
    """A signed note over the first `size` events; `lines` are the cosignatures of witnesses."""

    size: int
    root: bytes
    note: str
    signed_at: datetime
    lines: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The note as published."""
        return self.note + "".join(self.lines)


class ExportHead(NamedTuple):
    """The exported part of the head row."""

    position: int
    epoch: int
    hlc_bound_ms: int
    saga_engine: str


class Witnessed(NamedTuple):
    """The last checkpoint of another log that this cell, as a witness, has seen and signed."""

    origin: str
    # The key of that log: "name+id+key".
    key: str
    size: int
    root: bytes
    note: str
    cosigned_at: datetime


class WitnessMemory(Protocol):
    """The last checkpoint of each log that a witness has seen."""

    async def witnessed(self, origin: str) -> Witnessed | None: ...

    async def witness(self, seen: Witnessed, before: Witnessed | None) -> bool:
        """Stores `seen` if `before` is still the last; otherwise returns False."""


class ProofStore(WitnessMemory, Protocol):
    """Every method may raise StoreUnavailable. Hashes are concatenated, 32 bytes each."""

    async def last_tile(self, level: int) -> int:
        """The number of the last full tile of a level; -1 if there is none."""

    async def tile(self, level: int, place: int) -> bytes | None:
        """The 256 hashes of a full tile; None if it is not full."""

    async def tile_roots(self, level: int, first: int, end: int) -> bytes:
        """The roots of a level's tiles from number `first` up to but not including `end`."""

    async def leaf_hashes(self, first: int, end: int) -> bytes:
        """The hashes stored with the events at positions `first` + 1 to `end`."""

    async def add_tiles(self, tiles: Sequence[Tile]) -> None: ...

    async def add_checkpoint(self, checkpoint: SignedCheckpoint) -> None: ...

    async def add_cosignature(self, size: int, witness: str, line: str, at: datetime) -> None:
        """Stores the first cosignature of a witness for that size."""

    async def checkpoints(self, from_size: int, limit: int) -> list[SignedCheckpoint]:
        """The checkpoints from a size on, the smallest first."""

    async def last_checkpoint(self, size_max: int) -> SignedCheckpoint | None:
        """The largest checkpoint of at most that size."""

    async def last_cosigned(self) -> SignedCheckpoint | None: ...

    async def cosigned_size(self, witness: str) -> int:
        """The largest size that a witness has signed; 0 if there is none."""

    async def export_head(self) -> ExportHead: ...

    async def export_events(self, from_position: int, to_position: int, limit: int) -> list[EventRow]:
        """The events as stored, including rows that no cell has written."""

    async def export_moved(self, to_position: int, after: MovedEvent | None, limit: int) -> list[MovedEvent]:
        """Events that users brought from the logs of other cells, user by user, as far as arrivals bind them."""

    async def export_outcomes(self, position: int, after: OutcomePlace, limit: int) -> list[OutcomeRow]:
        """The outcomes when the log ended at `position`, by id and sender; later ones count as in progress."""
