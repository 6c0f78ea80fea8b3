"""The right edge of a growing tree: the hashes that give its root, and the full tiles that it emits. Pure.

Each leaf is hashed into the tree once. The frontier keeps one partial tile per level: some kilobytes, however long the
log is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cells.audit.proofs.merkle import HASH_BYTES, TILE_LEVELS, TILE_WIDTH, Span, TilePart, hash_of, merged

TILE_BYTES = TILE_WIDTH * HASH_BYTES


class Tile(NamedTuple):
    """A full tile: 256 concatenated hashes, and the hash of their subtree."""

    level: int
    place: int
    hashes: bytes
    root: bytes


def split(hashes: bytes) -> list[bytes]:
    return [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]


@dataclass(slots=True)
class Frontier:
    """`edges` has, for each level, the hashes of the partial tile."""

    size: int = 0
    edges: list[bytearray] = field(default_factory=list)

    def room(self) -> int:
        """How many leaves still fit into the partial tile."""
        return TILE_WIDTH - self.size % TILE_WIDTH

    def add(self, hashes: bytes) -> list[Tile]:
        """Adds leaf hashes, at most `room`; returns the tiles that became full."""
        self._edge(0).extend(hashes)
        self.size += len(hashes) // HASH_BYTES
        tiles: list[Tile] = []
        level = 0
        while len(self._edge(level)) == TILE_BYTES:
            full = bytes(self.edges[level])
            tiles.append(Tile(level, (self.size >> (level + 1) * TILE_LEVELS) - 1, full, merged(split(full))))
            self.edges[level].clear()
            level += 1
            self._edge(level).extend(tiles[-1].root)
        return tiles

    def root(self) -> bytes:
        return hash_of(Span(0, self.size), self._part)

    def _part(self, part: TilePart) -> Sequence[bytes]:
        """The hashes of a part. All subtrees of a root lie at the right edge."""
        edge = self.edges[part.level]
        return split(bytes(edge[part.first * HASH_BYTES : (part.first + part.width) * HASH_BYTES]))

    def _edge(self, level: int) -> bytearray:
        while len(self.edges) <= level:
            self.edges.append(bytearray())
        return self.edges[level]
