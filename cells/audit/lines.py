"""What exports and proofs are written in: JSON, an object a line (docs/log-format.md). Pure."""

import base64
from collections.abc import Sequence
from typing import Any

from cells.audit.ports import SignedCheckpoint
from cells.audit.verify.export import EXPORT
from cells.audit.verify.proof import CONSISTENCY, PROOF
from cells.codec import canonical, leaf_bytes, microseconds
from cells.ports import EventRow, OutcomeRow


def text64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _line(content: dict[str, Any]) -> bytes:
    return f"{canonical(content)}\n".encode()


def _headed(head: str, content: dict[str, Any]) -> bytes:
    """With the kind of the file in front, by which a reader knows it."""
    return f'{{"cellbook":"{head}",{canonical(content)[1:]}\n'.encode()


def event_line(row: EventRow) -> bytes:
    """The canonical bytes that the hash is over, and the hash."""
    return _event_line(leaf_bytes(row), row.leaf_hash)


def _event_line(event: bytes, leaf_hash: bytes) -> bytes:
    # What no cell has written may hold an end of line.
    return b'{"event":%b,"leaf_hash":"%b"}\n' % (event.replace(b"\n", b" "), leaf_hash.hex().encode())


def header_line(content: dict[str, Any]) -> bytes:
    return _headed(EXPORT, content)


def tile_line(place: int, hashes: bytes) -> bytes:
    return _line({"tile": place, "hashes": text64(hashes)})


def checkpoint_line(checkpoint: SignedCheckpoint) -> bytes:
    return _line({"checkpoint": checkpoint.text})


def reached_line(checkpoint: SignedCheckpoint, path: Sequence[bytes]) -> bytes:
    """A checkpoint beyond what was exported, which has grown out of it."""
    return _line({"checkpoint": checkpoint.text, "consistency": [text64(step) for step in path]})


def outcome_line(row: OutcomeRow) -> bytes:
    return _line(
        {
            "outcome": {
                "command_id": str(row.command_id),
                "fingerprint": row.fingerprint.hex(),
                "hlc_logical": row.hlc_logical,
                "hlc_physical": row.hlc_physical,
                "outcome": row.outcome,
                "position": row.position,
                "recorded_at_us": microseconds(row.recorded_at),
            }
        }
    )


def end_line(position: int, root: bytes, *, whole: bool) -> bytes:
    return _line({"end": {"position": position, "root": text64(root), "whole": whole}})


def proof_lines(checkpoint: str, size: int, path: Sequence[bytes], event: bytes, leaf_hash: bytes) -> bytes:
    """A file that `cellbook verify` checks: that the event is in what was signed."""
    head = _headed(PROOF, {"checkpoint": checkpoint, "path": [text64(step) for step in path], "size": size})
    return head + _event_line(event, leaf_hash)


def consistency_lines(old: str, new: str, path: Sequence[bytes]) -> bytes:
    """A file that `cellbook verify` checks: that one checkpoint has grown out of another."""
    return _headed(CONSISTENCY, {"new": new, "old": old, "path": [text64(step) for step in path]})
