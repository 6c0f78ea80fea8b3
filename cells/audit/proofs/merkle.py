"""The tree over a log's leaves, RFC 6962 and RFC 9162: the hashes that make up a root or a proof. Pure.

A `Node` is a complete subtree. Complete subtrees never change as the log grows, so their hashes can be kept, in tiles
of 256 (C2SP tlog-tiles): a proof needs only a few tiles however long the log is. Callers ask for a `Span` of leaves
that is a subtree of the tree, complete or at its right edge.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import NamedTuple

from cells.audit.verify.tree import node_hash

EMPTY_ROOT = sha256(b"").digest()
HASH_BYTES = 32
# Levels of the tree in a tile: 256 hashes, and the nodes above them.
TILE_LEVELS = 8
TILE_WIDTH = 1 << TILE_LEVELS


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


def root_of(hashes: Sequence[bytes]) -> bytes:
    """The hash of a span from the hashes of its nodes."""
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


def merged(hashes: Sequence[bytes]) -> bytes:
    """The hash of a complete subtree from a power of two of hashes below it."""
    while len(hashes) > 1:
        hashes = [node_hash(hashes[place], hashes[place + 1]) for place in range(0, len(hashes), 2)]
    return hashes[0]


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


def hash_of(span: Span, tile_hashes: Callable[[TilePart], Sequence[bytes]]) -> bytes:
    return root_of([merged(tile_hashes(tile_part(node))) for node in nodes_of(span)])
