"""The tree: published vectors of RFC 6962, and properties of any tree."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cells.audit.proofs.tree import Node, Span, TilePart, consistency_spans, inclusion_spans, nodes_of, tile_part
from cells.audit.verify.tree import (
    TILE_LEVELS,
    TILE_WIDTH,
    Frontier,
    Tree,
    is_consistent,
    is_included,
    leaf_hash,
    node_hash,
    root_of,
    tree_root,
)

# The vectors of the reference implementation of Certificate Transparency: leaves, roots of sizes 1 to 8, proofs.
LEAVES = [
    leaf_hash(bytes.fromhex(text))
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
_A = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
_B = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
_C = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
_D = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
_E = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
_F = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
PATHS: list[tuple[int, int, list[str]]] = [
    (0, 1, []),
    (0, 8, [_A, _B, _C]),
    (5, 8, [_D, _E, ROOTS[3]]),
    (2, 3, [ROOTS[1]]),
    (1, 5, [ROOTS[0], _B, _D]),
]
GROWTHS: list[tuple[int, int, list[str]]] = [
    (1, 1, []),
    (1, 8, [_A, _B, _C]),
    (6, 8, [_F, _E, ROOTS[3]]),
    (2, 5, [_B, _D]),
]
SIZE_MAX = 600


def leaves(count: int) -> list[bytes]:
    return [leaf_hash(str(number).encode()) for number in range(count)]


def straight(hashes: list[bytes]) -> bytes:
    """MTH as in RFC 6962, simple and slow."""
    if not hashes:
        return sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    return node_hash(straight(hashes[:split]), straight(hashes[split:]))


def tiled(hashes: list[bytes], part: TilePart) -> list[bytes]:
    """The hashes of a part of a tile, from the leaves."""
    width = 1 << part.level * TILE_LEVELS
    first = part.place * TILE_WIDTH + part.first
    return [straight(hashes[place * width : (place + 1) * width]) for place in range(first, first + part.width)]


def made(hashes: list[bytes], spans: list[Span]) -> list[bytes]:
    return [root_of([tree_root(tiled(hashes, tile_part(node))) for node in nodes_of(span)]) for span in spans]


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_the_published_ones(size: int) -> None:
    """For the cell's tree, and for the one that the verifier grows."""
    tree = Tree()
    for leaf in LEAVES[:size]:
        tree.append(leaf)
    assert tree.root().hex() == made(LEAVES, [Span(0, size)])[0].hex() == ROOTS[size - 1]


def test_the_root_of_nothing_is_the_hash_of_nothing() -> None:
    """As in RFC 6962."""
    assert Tree().root() == root_of([]) == sha256(b"").digest()


@pytest.mark.parametrize(("index", "size", "path"), PATHS)
def test_inclusion_proofs_are_the_published_ones(index: int, size: int, path: list[str]) -> None:
    """Hash by hash, and the verifier accepts them."""
    proof = made(LEAVES, inclusion_spans(index, size))
    assert [step.hex() for step in proof] == path
    assert is_included(LEAVES[index], index, size, proof, bytes.fromhex(ROOTS[size - 1]))


@pytest.mark.parametrize(("old", "new", "path"), GROWTHS)
def test_consistency_proofs_are_the_published_ones(old: int, new: int, path: list[str]) -> None:
    """Hash by hash, and the verifier accepts them."""
    proof = made(LEAVES, consistency_spans(old, new))
    assert [step.hex() for step in proof] == path
    assert is_consistent(old, new, bytes.fromhex(ROOTS[old - 1]), bytes.fromhex(ROOTS[new - 1]), proof)


@given(st.integers(0, SIZE_MAX))
def test_the_tree_grows_to_what_it_is(size: int) -> None:
    """Leaf by leaf, by nodes, by tiles, level by level, and from the definition: one root."""
    hashes, tree = leaves(size), Tree()
    for leaf in hashes:
        tree.append(leaf)
    assert tree.root() == straight(hashes)
    frontier = Frontier()
    while frontier.size < size:
        frontier.add(b"".join(hashes[frontier.size : frontier.size + frontier.room()]))
    assert made(hashes, [Span(0, size)])[0] == frontier.root() == tree_root(hashes) == straight(hashes)
    assert len(tree.peaks) == size.bit_count() == len(nodes_of(Span(0, size)))


@given(st.data())
def test_an_inclusion_proof_holds_for_its_leaf_alone(data: st.DataObject) -> None:
    """Not for another leaf, place, size or root, nor with a step changed, left out or added."""
    size = data.draw(st.integers(1, SIZE_MAX))
    index = data.draw(st.integers(0, size - 1))
    hashes = leaves(size)
    root, proof = straight(hashes), made(hashes, inclusion_spans(index, size))
    assert is_included(hashes[index], index, size, proof, root)
    assert len(proof) <= size.bit_length()
    assert not is_included(leaf_hash(b"x"), index, size, proof, root)
    assert not is_included(hashes[index], index, size, proof, leaf_hash(b"x"))
    assert not is_included(hashes[index], index, size, [*proof, root], root)
    assert not is_included(hashes[index], size, size, proof, root)
    assert not is_included(hashes[index], -1, size, proof, root)
    other = data.draw(st.integers(0, size - 1))
    assert is_included(hashes[index], other, size, proof, root) is (other == index)
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        assert not is_included(hashes[index], index, size, proof[:place] + proof[place + 1 :], root)
        assert not is_included(hashes[index], index, size, [*proof[:place], root, *proof[place + 1 :]], root)


@given(st.data())
def test_a_consistency_proof_holds_for_its_trees_alone(data: st.DataObject) -> None:
    """Not for another root or size, nor with a step changed, left out or added."""
    new = data.draw(st.integers(1, SIZE_MAX))
    old = data.draw(st.integers(1, new))
    hashes = leaves(new)
    roots, proof = (straight(hashes[:old]), straight(hashes)), made(hashes, consistency_spans(old, new))
    assert is_consistent(old, new, *roots, proof)
    assert not is_consistent(old, new, leaf_hash(b"x"), roots[1], proof)
    assert not is_consistent(old, new, roots[0], leaf_hash(b"x"), proof)
    assert not is_consistent(old, new, *roots, [*proof, roots[0]])
    assert not is_consistent(new + 1, new, *roots, proof)
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        assert not is_consistent(old, new, *roots, proof[:place] + proof[place + 1 :])
        assert not is_consistent(old, new, *roots, [*proof[:place], leaf_hash(b"x"), *proof[place + 1 :]])


def test_everything_grows_out_of_nothing() -> None:
    """The proof is empty then, and a longer one is invalid."""
    assert is_consistent(0, 5, Tree().root(), bytes.fromhex(ROOTS[4]), [])
    assert not is_consistent(0, 5, Tree().root(), bytes.fromhex(ROOTS[4]), [LEAVES[0]])


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_what_a_proof_reads_is_bounded(one: int, other: int) -> None:
    """However long the log is: a part of each tile, and a few tiles per level."""
    index, size = min(one, other), max(one, other) + 1
    for spans in (inclusion_spans(index, size), consistency_spans(index, size)):
        parts = [tile_part(node) for span in spans for node in nodes_of(span)]
        assert len(spans) <= 42
        assert len({(part.level, part.place) for part in parts}) <= 12
        assert all(part.first + part.width <= TILE_WIDTH for part in parts)


def test_nodes_lie_in_tiles() -> None:
    """A leaf in a tile of leaves; a node 8 levels up in the tile above it."""
    assert tile_part(Node(0, 257)) == TilePart(0, 1, 1, 1)
    assert tile_part(Node(3, 33)) == TilePart(0, 1, 8, 8)
    assert tile_part(Node(8, 257)) == TilePart(1, 1, 1, 1)
