"""The in-memory store of tiles, checkpoints and exports, for tests."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from cells.audit.proofs.ports import ExportHead, SignedCheckpoint, Witnessed
from cells.audit.verify.tree import Tile
from cells.moves.user_bundle import MovedEvent
from cells.store.outcomes import OutcomePlace, outcome_place
from cells.store.ports import EventRow, OutcomeRow
from tests.doubles.store import MemoryStore


class MemoryProofs:
    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._tiles: dict[tuple[int, int], Tile] = {}
        self._checkpoints: dict[int, SignedCheckpoint] = {}
        self._lines: dict[tuple[int, str], str] = {}
        self._witnessed: dict[str, Witnessed] = {}

    async def last_tile(self, level: int) -> int:
        return max((place for each, place in self._tiles if each == level), default=-1)

    async def tile(self, level: int, place: int) -> bytes | None:
        found = self._tiles.get((level, place))
        return found.hashes if found else None

    async def tile_roots(self, level: int, first: int, end: int) -> bytes:
        found = (self._tiles.get((level, place)) for place in range(first, end))
        return b"".join(tile.root for tile in found if tile is not None)

    async def leaf_hashes(self, first: int, end: int) -> bytes:
        return b"".join(row.leaf_hash for row in self._store.log[first:end])

    async def add_tiles(self, tiles: Sequence[Tile]) -> None:
        self._tiles |= {(tile.level, tile.place): tile for tile in tiles}

    async def add_checkpoint(self, checkpoint: SignedCheckpoint) -> None:
        self._checkpoints[checkpoint.size] = checkpoint

    async def add_cosignature(self, size: int, witness: str, line: str, at: datetime) -> None:
        self._lines.setdefault((size, witness), line)

    async def checkpoints(self, from_size: int, limit: int) -> list[SignedCheckpoint]:
        return [self._whole(size) for size in sorted(self._checkpoints) if size >= from_size][:limit]

    async def last_checkpoint(self, size_max: int) -> SignedCheckpoint | None:
        size = max((size for size in self._checkpoints if size <= size_max), default=0)
        return self._whole(size) if size else None

    async def last_cosigned(self) -> SignedCheckpoint | None:
        return self._whole(max(size for size, _ in self._lines)) if self._lines else None

    async def cosigned_size(self, witness: str) -> int:
        return max((size for size, name in self._lines if name == witness), default=0)

    async def witnessed(self, origin: str) -> Witnessed | None:
        return self._witnessed.get(origin)

    async def witness(self, seen: Witnessed, before: Witnessed | None) -> bool:
        if self._witnessed.get(seen.origin) != before:
            return False
        self._witnessed[seen.origin] = seen
        return True

    def _whole(self, size: int) -> SignedCheckpoint:
        lines = tuple(line for (of, _), line in sorted(self._lines.items()) if of == size)
        return self._checkpoints[size]._replace(lines=lines)

    # --- exports ----------------------------------------------------------------------------------------------------

    async def export_head(self) -> ExportHead:
        head = await self._store.head()
        return ExportHead(head.position, head.epoch, head.hlc_bound_ms, "native")

    async def export_events(self, from_position: int, to_position: int, limit: int) -> list[EventRow]:
        return self._store.log[from_position - 1 : min(to_position, from_position - 1 + limit)]

    async def export_moved(self, to_position: int, after: MovedEvent | None, limit: int) -> list[MovedEvent]:
        def place(moved: MovedEvent) -> tuple[UUID, str, int]:
            return moved.row.aggregate_id, moved.cell, moved.row.position

        found = []
        for user_id, moved in self._store.moved.items():
            counted = self._store.counted(user_id, to_position)
            found += [each for each in moved.values() if each.row.stream_version <= counted[each.cell]]
        found.sort(key=place)
        return [each for each in found if after is None or place(each) > place(after)][:limit]

    async def export_outcomes(self, position: int, after: OutcomePlace, limit: int) -> list[OutcomeRow]:
        rows = [row for row in self._store.all_outcomes() if outcome_place(row) > after]
        return [row for row in rows if row.cell is not None or row.position <= position][:limit]
