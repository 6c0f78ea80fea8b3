"""Merkle trees as in RFC 9162 (formerly RFC 6962): growing a tree, alone or in tiles, and checking proofs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()
# Levels of the tree in a tile: 256 hashes, and the nodes above them (C2SP tlog-tiles).
TILE_LEVELS = 8
TILE_WIDTH = 1 << TILE_LEVELS
TILE_BYTES = TILE_WIDTH * HASH_BYTES


def leaf_hash(leaf: bytes) -> bytes:
    return sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def split(hashes: bytes) -> list[bytes]:
    return [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]


def tree_root(hashes: Sequence[bytes]) -> bytes:
    """The root over these hashes, level by level. The last one of an odd level moves up as it is."""
    if not hashes:
        return EMPTY_ROOT
    while (count := len(hashes)) > 1:
        pairs = [node_hash(hashes[place], hashes[place + 1]) for place in range(0, count - 1, 2)]
        hashes = [*pairs, hashes[-1]] if count % 2 else pairs
    return hashes[0]


def root_of(hashes: Sequence[bytes]) -> bytes:
    """The root from the hashes of complete subtrees, from the left, each smaller than the one before."""
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


@dataclass(slots=True)
class Tree:
    """A tree that grows leaf by leaf: the hashes of its complete subtrees, the largest first."""

    size: int = 0
    peaks: list[bytes] = field(default_factory=list)

    def append(self, leaf: bytes) -> None:
        self.peaks.append(leaf)
        self.size += 1
        merges = (self.size & -self.size).bit_length() - 1
        for _ in range(merges):
            right = self.peaks.pop()
            self.peaks.append(node_hash(self.peaks.pop(), right))

    def root(self) -> bytes:
        return root_of(self.peaks)


class Tile(NamedTuple):
    """A full tile: 256 concatenated hashes, and the hash of their subtree."""

    level: int
    place: int
    hashes: bytes
    root: bytes


@dataclass(slots=True)
class Frontier:
    """The right edge of a growing tree: `edges` has, for each level, the hashes of the partial tile.

    Each leaf is hashed into the tree once. The edges take some kilobytes, however long the log is.
    """

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
            tiles.append(Tile(level, (self.size >> (level + 1) * TILE_LEVELS) - 1, full, tree_root(split(full))))
            self.edges[level].clear()
            level += 1
            self._edge(level).extend(tiles[-1].root)
        return tiles

    def root(self) -> bytes:
        below: list[bytes] = []
        for edge in self.edges:
            hashes = split(bytes(edge)) + below
            below = [tree_root(hashes)] if hashes else []
        return tree_root(below)

    def _edge(self, level: int) -> bytearray:
        while len(self.edges) <= level:
            self.edges.append(bytearray())
        return self.edges[level]


def is_included(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """RFC 9162, section 2.1.3.2. `leaf` is the leaf's hash."""
    if not 0 <= index < size:
        return False
    here, last, found = index, size - 1, leaf
    for step in path:
        if last == 0:
            return False
        if here & 1 or here == last:
            found = node_hash(step, found)
            while here and not here & 1:
                here, last = here >> 1, last >> 1
        else:
            found = node_hash(found, step)
        here, last = here >> 1, last >> 1
    return last == 0 and found == root


def is_consistent(old_size: int, new_size: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]) -> bool:
    """RFC 9162, section 2.1.4.2. Every tree extends the empty tree."""
    if old_size == new_size:
        return not path and old_root == new_root
    if old_size == 0:
        return not path
    if not 0 < old_size < new_size:
        return False
    steps = [old_root, *path] if old_size & (old_size - 1) == 0 else list(path)
    if not steps:
        return False
    here, last = old_size - 1, new_size - 1
    while here & 1:
        here, last = here >> 1, last >> 1
    old = new = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if here & 1 or here == last:
            old, new = node_hash(step, old), node_hash(step, new)
            while here and not here & 1:
                here, last = here >> 1, last >> 1
        else:
            new = node_hash(new, step)
        here, last = here >> 1, last >> 1
    return last == 0 and old == old_root and new == new_root
