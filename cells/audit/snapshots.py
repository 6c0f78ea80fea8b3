"""States as they were: what is kept of them, and what proves that a row of it is as it was made."""

from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

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
    state_hash: bytes

    @property
    def intact(self) -> bool:
        return self.state_hash == state_hash(self.leaf_hash, self.state)


def state_hash(leaf_hash: bytes, state: str) -> bytes:
    return sha256(leaf_hash + state.encode()).digest()


def may_be_due(version: int) -> bool:
    """At the same versions, whoever makes them."""
    return version % EVERY == 0


def is_due(version: int, last_version: int, state_bytes: int) -> bool:
    """Whether a stream at `version` is to have a snapshot, its last one being of `last_version` and so large."""
    return version - last_version >= max(EVERY, state_bytes // STATE_BYTES_PER_EVENT)
