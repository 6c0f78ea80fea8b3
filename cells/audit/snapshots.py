"""States as they were: what is kept of them, and what proves that a row of it is as it was made.

A snapshot stands in for events, so that a forged one would change every answer that rests on it. Each carries a keyed
hash (HMAC-SHA-256, RFC 2104) over all that it says and over the leaf hash of its event. The key is derived from the one
that signs checkpoints, which lies outside of the database.
"""

import hmac
from typing import NamedTuple
from uuid import UUID

from cells.audit.keys import CellKeys
from cells.domain.record import Struct
from cells.domain.values import Kind

# A stream's state is kept every so many events.
EVERY = 64
# And a large one less often: so many bytes of state for each event of the log, which has a kilobyte or so.
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
    """What all postings up to a position come to: account -> currency -> minor units, as canonical JSON."""

    position: int
    balances: str
    leaf_hash: bytes
    seal: bytes


class SnapshotKey(Struct, frozen=True, kw_only=True):
    """Seals snapshots. Empty, where a cell has no keys: then whoever may write to the database may seal, too."""

    secret: bytes = b""

    def seal(self, snapshot: Snapshot | HouseSnapshot) -> bytes:
        """Over every field but the seal, each with its length before it."""
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
    """At the same versions, whoever makes them."""
    return version % EVERY == 0


def is_due(version: int, last_version: int, state_bytes: int) -> bool:
    """Whether a stream at `version` is to have a snapshot, its last one being of `last_version` and so large."""
    return version - last_version >= max(EVERY, state_bytes // STATE_BYTES_PER_EVENT)
