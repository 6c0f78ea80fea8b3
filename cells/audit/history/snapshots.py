"""Snapshots of past states, with seals that reveal changed rows.

A snapshot replaces events, so a forged one would change every answer that uses it. Each carries a keyed hash
(HMAC-SHA-256, RFC 2104) over its contents and over the leaf hash of its event. The key is derived from the key that
signs checkpoints, which is outside the database.
"""

import hmac
from typing import NamedTuple
from uuid import UUID

from cells.audit.proofs.keys import CellKeys
from cells.domain.record import Struct
from cells.domain.values import Kind
from cells.writer.lineage import SNAPSHOT_EVENTS

# Large states are stored less often: at most this many bytes per event of the log, which has about a kilobyte.
STATE_BYTES_PER_EVENT = 64


class Snapshot(NamedTuple):
    """The state of an aggregate after the event with `leaf_hash`, as canonical JSON."""

    aggregate_id: UUID
    position: int
    stream_version: int
    kind: Kind
    state: str
    leaf_hash: bytes
    seal: bytes


class HouseSnapshot(NamedTuple):
    """The sums of all postings up to a position: account -> currency -> minor units, as canonical JSON."""

    position: int
    balances: str
    leaf_hash: bytes
    seal: bytes


class SnapshotKey(Struct, frozen=True, kw_only=True):
    """Seals snapshots. Empty if a cell has no keys: then anyone who can write to the database can make a valid seal."""

    secret: bytes = b""

    def seal(self, snapshot: Snapshot | HouseSnapshot) -> bytes:
        """The hash over every field except the seal, each preceded by its length."""
        parts = [str(type(snapshot).__name__), *map(_text, snapshot[:-1])]
        return hmac.digest(self.secret, "".join(f"{len(part)}:{part}" for part in parts).encode(), "sha256")

    def sealed(self, snapshot: Snapshot | HouseSnapshot) -> bool:
        return hmac.compare_digest(snapshot.seal, self.seal(snapshot))


def snapshot_key(keys: CellKeys | None) -> SnapshotKey:
    if keys is None:
        return SnapshotKey()
    return SnapshotKey(secret=keys.secret("snapshots"))


def _text(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def may_be_due(version: int) -> bool:
    """Whether a snapshot may be due at this version. It is the same for every process."""
    return version % SNAPSHOT_EVENTS == 0


def is_due(version: int, last_version: int, state_bytes: int) -> bool:
    """Whether a stream at `version` needs a snapshot, given its last snapshot's version and the size of its state."""
    return version - last_version >= max(SNAPSHOT_EVENTS, state_bytes // STATE_BYTES_PER_EVENT)
