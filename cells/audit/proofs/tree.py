"""The tree over a log's leaves, RFC 6962 and RFC 9162: which hashes make up a root or a proof, and reading them.

A `Node` is a complete subtree. Complete subtrees never change as the log grows, so their hashes can be kept, in tiles
of 256 (C2SP tlog-tiles): a proof needs only a few tiles however long the log is. Callers ask for a `Span` of leaves
that is a subtree of the tree, complete or at its right edge.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from cells.audit.proofs.ports import ProofStore
from cells.audit.verify.tree import HASH_BYTES, TILE_LEVELS, TILE_WIDTH, Frontier, root_of, split, tree_root

# Tiles that one query may recompute: some seconds of writing at full speed.
BEHIND_MAX = 512


class Node(NamedTuple):
    """The complete subtree of 2^level leaves with number `place` at its level, from 0."""

    level: int
    place: int


class Span(NamedTuple):
    """Leaves from `first` up to but not including `end`."""

    first: int
    end: int


class TilePart(NamedTuple):
    """`width` hashes from the `first` on of the tile at (level, place): those of nodes at tree level 8 * level."""

    level: int
    place: int
    first: int
    width: int


def nodes_of(span: Span) -> list[Node]:
    """The complete subtrees of a span, from the left, each smaller than the one before."""
    nodes, first = [], span.first
    while first < span.end:
        level = (span.end - first).bit_length() - 1
        nodes.append(Node(level, first >> level))
        first += 1 << level
    return nodes


def inclusion_spans(index: int, size: int) -> list[Span]:
    """PATH(m, D[n]) of RFC 6962, section 2.1.1: the spans of a proof for leaf `index`, from the leaf to the root."""
    spans, first, end = [], 0, size
    while end - first > 1:
        middle = first + _split(end - first)
        if index < middle:
            spans.append(Span(middle, end))
            end = middle
        else:
            spans.append(Span(first, middle))
            first = middle
    return spans[::-1]


def consistency_spans(old: int, new: int) -> list[Span]:
    """PROOF(m, D[n]) of RFC 6962, section 2.1.2; empty if a tree is empty or both are the same."""
    if not 0 < old < new:
        return []
    spans, first, end, whole = [], 0, new, True
    while old != end:
        middle = first + _split(end - first)
        if old <= middle:
            spans.append(Span(middle, end))
            end = middle
        else:
            spans.append(Span(first, middle))
            first, whole = middle, False
    if not whole:
        spans.append(Span(first, end))
    return spans[::-1]


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


def tile_part(node: Node) -> TilePart:
    """The part of a tile with the hashes that a node's hash is merged from."""
    level, above = divmod(node.level, TILE_LEVELS)
    place, first = divmod(node.place << above, TILE_WIDTH)
    return TilePart(level, place, first, 1 << above)


class TreeIncomplete(Exception):
    """Hashes that should be stored are missing."""


@dataclass(slots=True)
class TreeReader:
    """Reads for one query, and caches what it reads. Every method may raise TreeIncomplete."""

    store: ProofStore
    # The number of leaves: hashes in a partial tile are read one level below.
    size: int
    _tiles: dict[tuple[int, int], bytes] = field(default_factory=dict)

    async def root(self) -> bytes:
        return root_of(await self.peaks())

    async def inclusion(self, index: int) -> list[bytes]:
        """The proof that the tree contains leaf `index`."""
        return [root_of(await self.peaks(span)) for span in inclusion_spans(index, self.size)]

    async def consistency(self, old: int) -> list[bytes]:
        """The proof that the tree extends that of the first `old` leaves."""
        return [root_of(await self.peaks(span)) for span in consistency_spans(old, self.size)]

    async def peaks(self, span: Span | None = None) -> list[bytes]:
        """The hashes of the complete subtrees of a span; by default of the whole tree."""
        nodes = nodes_of(span or Span(0, self.size))
        return [tree_root(await self._part(tile_part(node))) for node in nodes]

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
        return roots + b"".join([tree_root(split(await self._read(level, place))) for place in missing])


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
