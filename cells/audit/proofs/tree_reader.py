"""Reads hashes of parts of the log's tree from a few tiles, however long the log is."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cells.audit.proofs.frontier import Frontier, split
from cells.audit.proofs.merkle import (
    HASH_BYTES,
    TILE_LEVELS,
    TILE_WIDTH,
    Span,
    TilePart,
    merged,
    nodes_of,
    root_of,
    tile_part,
)
from cells.audit.proofs.ports import ProofStore

# Tiles that one query may recompute: some seconds of writing at full speed.
BEHIND_MAX = 512


class TreeIncomplete(Exception):
    """Hashes that should be stored are missing."""


@dataclass(slots=True)
class TreeReader:
    """Reads for one query, and caches what it reads."""

    store: ProofStore
    # The number of leaves: hashes in a partial tile are read one level below.
    size: int
    _tiles: dict[tuple[int, int], bytes] = field(default_factory=dict)

    async def hashes_of(self, spans: Sequence[Span]) -> list[bytes]:
        """Raises TreeIncomplete."""
        return [await self.hash_of(span) for span in spans]

    async def hash_of(self, span: Span) -> bytes:
        return root_of([merged(await self._part(tile_part(node))) for node in nodes_of(span)])

    async def _part(self, part: TilePart) -> list[bytes]:
        key = part.level, part.place
        if key not in self._tiles:
            self._tiles[key] = await self._read(*key)
        hashes = self._tiles[key][part.first * HASH_BYTES : (part.first + part.width) * HASH_BYTES]
        if len(hashes) != part.width * HASH_BYTES:
            raise TreeIncomplete(f"tile {part.place} of level {part.level} has not all of its hashes")
        return split(hashes)

    async def _read(self, level: int, place: int) -> bytes:
        full = await self.store.tile(level, place)
        if full is not None:
            return full
        first, end = place * TILE_WIDTH, (place + 1) * TILE_WIDTH
        if level:
            return await self._roots(level - 1, first, min(end, self.size >> level * TILE_LEVELS))
        return await self.store.leaf_hashes(first, min(end, self.size))

    async def _roots(self, level: int, first: int, end: int) -> bytes:
        """The roots of tiles. Tiles that have just become full may not be stored yet."""
        roots = await self.store.tile_roots(level, first, end)
        missing = range(first + len(roots) // HASH_BYTES, end)
        if len(missing) > BEHIND_MAX:
            raise TreeIncomplete(f"tiles {missing.start} to {end - 1} of level {level} are not there yet")
        return roots + b"".join([merged(split(await self._read(level, place))) for place in missing])


async def frontier_of(store: ProofStore) -> Frontier:
    """The right edge of the tree up to its last full tile. Raises TreeIncomplete."""
    count, level = await store.last_tile(0) + 1, 0
    frontier = Frontier(count * TILE_WIDTH, [bytearray()])
    while count:
        first = count // TILE_WIDTH * TILE_WIDTH
        roots = await store.tile_roots(level, first, count)
        if len(roots) != (count - first) * HASH_BYTES:
            raise TreeIncomplete(f"of tiles {first} to {count - 1} of level {level} some are missing")
        frontier.edges.append(bytearray(roots))
        count, level = count // TILE_WIDTH, level + 1
    return frontier
