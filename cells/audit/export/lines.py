"""The format of exports and proofs: JSON, one object per line (docs/log-format.md). Pure."""

import base64
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from cells.audit.verify.proof import CONSISTENCY, PROOF
from cells.encoding.codec import canonical, from_microseconds, leaf_bytes, microseconds
from cells.moves.user_bundle import MovedEvent
from cells.store.ports import EventRow, OutcomeRow


def text64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def line(content: dict[str, Any]) -> bytes:
    return f"{canonical(content)}\n".encode()


def headed(head: str, content: dict[str, Any]) -> bytes:
    """The object with the kind of the file first, so that a reader recognizes it."""
    return f'{{"cellbook":"{head}",{canonical(content)[1:]}\n'.encode()


def event_line(row: EventRow) -> bytes:
    """The canonical bytes that are hashed, and the hash."""
    return _event_line(leaf_bytes(row), row.leaf_hash)


def _event_line(event: bytes, leaf_hash: bytes) -> bytes:
    # A row that no cell wrote may contain an end of line.
    return b'{"event":%b,"leaf_hash":"%b"}\n' % (event.replace(b"\n", b" "), leaf_hash.hex().encode())


def event_row(event: dict[str, Any], leaf_hash: bytes) -> EventRow:
    """The row of a verified event, as it was stored."""
    return EventRow(
        position=event["position"],
        event_id=UUID(event["event_id"]),
        event_type=event["event_type"],
        aggregate_id=UUID(event["aggregate_id"]),
        stream_version=event["stream_version"],
        causation_id=_optional_id(event["causation_id"]),
        correlation_id=UUID(event["correlation_id"]),
        hlc_physical=event["hlc_physical"],
        hlc_logical=event["hlc_logical"],
        vector_clock=canonical(event["vector_clock"]),
        payload=canonical(event["payload"]),
        metadata=canonical(event["metadata"]),
        user_id=_optional_id(event["user_id"]),
        recorded_at=from_microseconds(event["recorded_at_us"]),
        leaf_hash=leaf_hash,
    )


def moved_line(moved: MovedEvent) -> bytes:
    """An event of another cell's log that a user brought along."""
    return b'{"moved":{"cell":%b,%b}\n' % (canonical(moved.cell).encode(), event_line(moved.row)[1:-1])


def outcome_line(row: OutcomeRow) -> bytes:
    """All columns of the row: `outcome_in` parses it."""
    return line({"outcome": dict(map(_column, row._fields, row))})


# Fields that are missing from the outcomes of older exports.
BEFORE_SENDERS = {"principal": "", "in_stream": False, "cell": None, "saga_id": None}


def outcome_in(content: dict[str, Any]) -> OutcomeRow:
    """Raises KeyError, TypeError, ValueError."""
    columns = {
        **BEFORE_SENDERS,
        **content,
        "command_id": UUID(content["command_id"]),
        "fingerprint": bytes.fromhex(content["fingerprint"]),
        "recorded_at": from_microseconds(content["recorded_at_us"]),
        "user_id": _optional_id(content["user_id"]),
        "saga_id": _optional_id(content.get("saga_id")),
    }
    return OutcomeRow(**{name: columns[name] for name in OutcomeRow._fields})


def _optional_id(text: str | None) -> UUID | None:
    return UUID(text) if text is not None else None


def _column(name: str, value: object) -> tuple[str, object]:
    match value:
        case UUID():
            return name, str(value)
        case bytes():
            return name, value.hex()
        case datetime():
            return f"{name}_us", microseconds(value)
        case _:
            return name, value


def proof_lines(checkpoint: str, size: int, path: Sequence[bytes], event: bytes, leaf_hash: bytes) -> bytes:
    """A file for `cellbook verify`, which proves that the checkpoint covers the event."""
    head = headed(PROOF, {"checkpoint": checkpoint, "path": [text64(step) for step in path], "size": size})
    return head + _event_line(event, leaf_hash)


def consistency_lines(old: str, new: str, path: Sequence[bytes]) -> bytes:
    """A file for `cellbook verify`, which proves that one checkpoint extends another."""
    return headed(CONSISTENCY, {"new": new, "old": old, "path": [text64(step) for step in path]})
