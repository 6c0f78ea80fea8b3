"""Checks a proof: that an event is in the log, or that one checkpoint extends another."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from .lines import event_in, parsed
from .note import Checkpoint, Malformed, VerifierKey, checkpoint_in, unbase64
from .tree import is_consistent, is_included, leaf_hash

PROOF, CONSISTENCY = "proof/1", "consistency/1"
PATH_MAX = 128


class Proven(NamedTuple):
    """`event` is None if two checkpoints were compared."""

    checkpoint: Checkpoint
    event: dict[str, Any] | None
    told: str


def check_proof(lines: Sequence[bytes], keys: Sequence[VerifierKey]) -> Proven:
    """Checks a proof. Raises Malformed with the reason if it is not valid."""
    if not lines:
        raise Malformed("there is nothing in it")
    head = parsed(lines[0])
    match head:
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
    told = f"the event is at position {position} of {checkpoint.origin}, signed at size {size}"
    return Proven(checkpoint, event, told)


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
