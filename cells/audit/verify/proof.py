"""Checks against a signed checkpoint: that an event is in the log, that the log has grown, that its tiles are whole.

Also the samples that no one can choose, because they follow from a seed and the checkpoint.
"""

import base64
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from .lines import event_in, parsed
from .note import Checkpoint, Malformed, VerifierKey, checkpoint_in, unbase64
from .tree import (
    HASH_BYTES,
    TILE_BYTES,
    TILE_LEVELS,
    TILE_WIDTH,
    Frontier,
    is_consistent,
    is_included,
    leaf_hash,
    split,
)

PROOF, CONSISTENCY = "proof/1", "consistency/1"
PATH_MAX = 128
CHECKPOINT, TILES = "checkpoint", "tile"
EVENTS, ACCOUNTS = "events", "accounts"


class Proven(NamedTuple):
    """`event` is None if two checkpoints were compared."""

    checkpoint: Checkpoint
    event: dict[str, Any] | None
    fact: str


def check_proof(lines: Sequence[bytes], keys: Sequence[VerifierKey]) -> Proven:
    """Checks a proof. Raises Malformed with the reason if it is not valid."""
    if not lines:
        raise Malformed("there is nothing in it")
    match parsed(lines[0]):
        case {"cellbook": "proof/1", "size": int(size), "path": list(path), "checkpoint": str(note)}:
            return _included(lines[1:], size, _path(path), checkpoint_in(note, keys))
        case {"cellbook": "consistency/1", "old": str(old), "new": str(new), "path": list(path)}:
            return _grown(checkpoint_in(old, keys), checkpoint_in(new, keys), _path(path))
        case _:
            raise Malformed(f"this is no proof that this verifier knows: expected {PROOF} or {CONSISTENCY}")


def _included(lines: Sequence[bytes], size: int, path: Sequence[bytes], checkpoint: Checkpoint) -> Proven:
    if len(lines) != 1:
        raise Malformed("a proof is two lines: what it proves, and the event")
    leaf, event, _ = event_in(lines[0])
    position = event.get("position")
    if size != checkpoint.size:
        raise Malformed(f"the proof is for a tree of size {size}, and the checkpoint of size {checkpoint.size}")
    if not isinstance(position, int) or not is_included(leaf_hash(leaf), position - 1, size, path, checkpoint.root):
        raise Malformed(f"the event is not at position {position} of what was signed: it, or the proof, was changed")
    fact = f"the event is at position {position} of {checkpoint.origin}, signed at size {size}"
    return Proven(checkpoint, event, fact)


def _grown(old: Checkpoint, new: Checkpoint, path: Sequence[bytes]) -> Proven:
    if old.origin != new.origin:
        raise Malformed(f"checkpoints of two logs: {old.origin!r} and {new.origin!r}")
    if not is_consistent(old.size, new.size, old.root, new.root, path):
        raise Malformed(f"the checkpoint of size {new.size} has not grown out of that of size {old.size}")
    return Proven(new, None, f"the first {old.size} events of {new.origin} are the same at size {new.size}")


def _path(path: Sequence[object]) -> list[bytes]:
    if len(path) > PATH_MAX:
        raise Malformed(f"a path of {len(path)} hashes is too long")
    return [unbase64(step, "a hash of the path") for step in path]


# --- tiles (C2SP tlog-tiles): the tree as files for any web server ------------------------------------------------


def tile_path(level: int, place: int, width: int = TILE_WIDTH) -> str:
    """The path of the tile's first `width` hashes within the folder."""
    groups = [f"{place % 1_000:03}"]
    while place := place // 1_000:
        groups.insert(0, f"x{place % 1_000:03}")
    partial = f".p/{width}" if width < TILE_WIDTH else ""
    return f"{TILES}/{level}/{'/'.join(groups)}{partial}"


def check_tiles(folder: Path, keys: Sequence[VerifierKey], held: Sequence[Checkpoint] = ()) -> Proven:
    """Checks that all tiles and the root follow from the leaves, and that the tree contains each held checkpoint.

    Raises Malformed, which names the wrong tile, and OSError.
    """
    checkpoint = checkpoint_in((folder / CHECKPOINT).read_text("utf-8"), keys)
    otherwise = _otherwise(folder, checkpoint, held)
    if otherwise:
        raise Malformed(f"the tiles do not give the root of the held checkpoint of size {otherwise[0]}")
    for each in held:
        if each.origin != checkpoint.origin or each.size > checkpoint.size:
            raise Malformed(
                f"the checkpoint of {each.origin} of size {each.size} is held, and what is published is of "
                f"{checkpoint.origin} and of size {checkpoint.size}: it takes some back"
            )
    fact = f"the tiles of {checkpoint.origin} give the root that was signed over its first {checkpoint.size} events"
    return Proven(checkpoint, None, f"{fact}{', and the held ones' if held else ''}")


def _otherwise(folder: Path, checkpoint: Checkpoint, held: Sequence[Checkpoint]) -> list[int]:
    """Grows the tree from the tiles of leaves. Returns the sizes of held checkpoints with a different root."""
    tree, otherwise = Frontier(), []
    while tree.size < checkpoint.size:
        place, first, end = tree.size // TILE_WIDTH, tree.size, min(tree.size + TILE_WIDTH, checkpoint.size)
        leaves = _read(folder, 0, place, end - first)
        for stop in sorted({end, *(each.size for each in held if first < each.size < end)}):
            for tile in tree.add(leaves[(tree.size - first) * HASH_BYTES : (stop - first) * HASH_BYTES]):
                if tile.level:
                    _compare(folder, tile.level, tile.place, tile.hashes)
            otherwise += [each.size for each in held if each.size == stop and each.root != tree.root()]
    for level, edge in enumerate(tree.edges[1:], 1):
        if edge:
            _compare(folder, level, tree.size >> (level + 1) * TILE_LEVELS, bytes(edge))
    if tree.root() != checkpoint.root:
        raise Malformed(f"the tiles do not give the root that was signed at size {checkpoint.size}")
    return otherwise


def _compare(folder: Path, level: int, place: int, expected: bytes) -> None:
    """Compares the tile with the hashes that the level below gives."""
    found = split(_read(folder, level, place, len(expected) // HASH_BYTES))
    for number, (stored, computed) in enumerate(zip(found, split(expected), strict=True)):
        if stored != computed:
            below = tile_path(level - 1, place * TILE_WIDTH + number)
            raise Malformed(f"{below} does not give its hash in {tile_path(level, place)}: one of them was changed")


def _read(folder: Path, level: int, place: int, width: int) -> bytes:
    """Reads hashes. If a partial tile was removed, the full one has the same hashes."""
    paths = [folder / tile_path(level, place, width), folder / tile_path(level, place)]
    found = next((path for path in paths if path.exists()), None)
    if found is None:
        raise Malformed(f"{tile_path(level, place, width)} is missing")
    content = found.read_bytes()
    if len(content) % HASH_BYTES or not width * HASH_BYTES <= len(content) <= TILE_BYTES:
        raise Malformed(f"{tile_path(level, place, width)} has {len(content)} bytes")
    return content[: width * HASH_BYTES]


# --- samples --------------------------------------------------------------------------------------------------------


def picked(seed: str, checkpoint: Checkpoint, what: str, count: int, among: int) -> list[int]:
    """`count` different numbers from 0 up to `among`, each as likely as any other; all of them where there are no more.

    Number i of the draw is SHA-256 over a text of the seed, the log, the size, the root, `what` and i, taken modulo
    `among`; a number that was drawn before is skipped.
    """
    root = base64.b64encode(checkpoint.root).decode()
    text = f"cellbook sample/1\n{seed}\n{checkpoint.origin}\n{checkpoint.size}\n{root}\n{what}\n"
    found: dict[int, None] = {}
    draw = 0
    while len(found) < min(count, among):
        found[int.from_bytes(sha256(f"{text}{draw}\n".encode()).digest()) % among] = None
        draw += 1
    return sorted(found)


def positions(seed: str, checkpoint: Checkpoint, count: int) -> list[int]:
    """The positions of the sampled events."""
    return [index + 1 for index in picked(seed, checkpoint, EVENTS, count, checkpoint.size)]
