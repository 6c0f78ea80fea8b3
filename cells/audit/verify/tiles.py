"""A log's tree as files for any web server (C2SP tlog-tiles): their paths, and the check against the signed root."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .note import Checkpoint, Malformed, VerifierKey, checkpoint_in
from .proof import Proven
from .tree import HASH_BYTES, Tree

CHECKPOINT, TILES = "checkpoint", "tile"
WIDTH = 256


def tile_path(level: int, place: int, width: int = WIDTH) -> str:
    """The path of the tile's first `width` hashes within the folder."""
    groups = [f"{place % 1_000:03}"]
    while place := place // 1_000:
        groups.insert(0, f"x{place % 1_000:03}")
    partial = f".p/{width}" if width < WIDTH else ""
    return f"{TILES}/{level}/{'/'.join(groups)}{partial}"


def check_tiles(folder: Path, keys: Sequence[VerifierKey], held: Sequence[Checkpoint] = ()) -> Proven:
    """Checks that all tiles and the root follow from the leaves, and that the tree contains each held checkpoint.

    Raises Malformed, which names the wrong tile, and OSError.
    """
    checkpoint = checkpoint_in((folder / CHECKPOINT).read_text("utf-8"), keys)
    check = _Check(folder=folder, held=held)
    for place in range(-(-checkpoint.size // WIDTH)):
        check.leaves(place, min(WIDTH, checkpoint.size - place * WIDTH))
    check.edges()
    if check.root() != checkpoint.root:
        raise Malformed(f"the tiles do not give the root that was signed at size {checkpoint.size}")
    for size in check.otherwise:
        raise Malformed(f"the tiles do not give the root of the held checkpoint of size {size}")
    for each in held:
        if each.origin != checkpoint.origin or each.size > checkpoint.size:
            raise Malformed(
                f"the checkpoint of {each.origin} of size {each.size} is held, and what is published is of "
                f"{checkpoint.origin} and of size {checkpoint.size}: it takes some back"
            )
    told = f"the tiles of {checkpoint.origin} give the root that was signed over its first {checkpoint.size} events"
    return Proven(checkpoint, None, f"{told}{', and the held ones' if held else ''}")


@dataclass(slots=True, kw_only=True)
class _Check:
    folder: Path
    held: Sequence[Checkpoint]
    # Sizes of held checkpoints with a different root.
    otherwise: list[int] = field(default_factory=list)
    # The tree of the roots of full tiles of level 0 and of the leaves in the partial tile.
    _tiles: Tree = field(default_factory=Tree)
    _last: Tree = field(default_factory=Tree)
    # For each level above: the number of full tiles, and the hashes after them.
    _full: list[int] = field(default_factory=list)
    _edges: list[list[bytes]] = field(default_factory=list)

    def leaves(self, place: int, width: int) -> None:
        self._last = Tree()
        for leaf in self._read(0, place, width):
            self._last.append(leaf)
            self._meet(place * WIDTH + self._last.size)
        if width == WIDTH:
            root, self._last = self._last.root(), Tree()
            self._tiles.append(root)
            self._push(1, root)

    def root(self) -> bytes:
        return Tree(peaks=[*self._tiles.peaks, *self._last.peaks]).root()

    def _meet(self, size: int) -> None:
        if any(each.size == size and each.root != self.root() for each in self.held):
            self.otherwise.append(size)

    def _push(self, level: int, root: bytes) -> None:
        if level > len(self._edges):
            self._edges.append([])
            self._full.append(0)
        edge = self._edges[level - 1]
        edge.append(root)
        if len(edge) == WIDTH:
            self._compare(level)
            tree = Tree()
            for each in edge:
                tree.append(each)
            edge.clear()
            self._full[level - 1] += 1
            self._push(level + 1, tree.root())

    def edges(self) -> None:
        """Checks the last tile of each level above, if it is not full."""
        for level, edge in enumerate(self._edges, 1):
            if edge:
                self._compare(level)

    def _compare(self, level: int) -> None:
        place, expected = self._full[level - 1], self._edges[level - 1]
        for number, found in enumerate(self._read(level, place, len(expected))):
            if found != expected[number]:
                below = tile_path(level - 1, place * WIDTH + number)
                raise Malformed(f"{below} does not give its hash in {tile_path(level, place)}: one of them was changed")

    def _read(self, level: int, place: int, width: int) -> list[bytes]:
        """Reads hashes. If a partial tile was removed, the full one has the same hashes."""
        paths = [self.folder / tile_path(level, place, width), self.folder / tile_path(level, place)]
        found = next((path for path in paths if path.exists()), None)
        if found is None:
            raise Malformed(f"{tile_path(level, place, width)} is missing")
        content = found.read_bytes()
        if len(content) % HASH_BYTES or not width * HASH_BYTES <= len(content) <= WIDTH * HASH_BYTES:
            raise Malformed(f"{tile_path(level, place, width)} has {len(content)} bytes")
        return [content[at : at + HASH_BYTES] for at in range(0, width * HASH_BYTES, HASH_BYTES)]
