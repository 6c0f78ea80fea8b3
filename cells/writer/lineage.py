"""How the writer came to a state: snapshots are made only of those that are known to follow from the events."""

from dataclasses import dataclass
from typing import Self

from cells.domain.decision import State
from cells.domain.record import Struct

# A snapshot of a stream is made after this many events.
SNAPSHOT_EVENTS = 64


@dataclass(slots=True)
class Lineage:
    """The states of one stream that the writer has evolved one from the other.

    They begin with the stream, or with a loaded row. Somebody may have changed that row, so the states are proven only
    once one of them was compared with the events.
    """

    # The next version of which a snapshot is due.
    due_version: int = SNAPSHOT_EVENTS
    proven: bool = True
    # The version of the last snapshot.
    kept_version: int = 0


class CachedState(Struct, frozen=True):
    """As Versioned. Without a lineage, no snapshot is made of it."""

    state: State
    stream_version: int
    lineage: Lineage | None = None

    @classmethod
    def loaded(cls, state: State, version: int) -> Self:
        due_version = version + SNAPSHOT_EVENTS - version % SNAPSHOT_EVENTS
        return cls(state, version, Lineage(due_version, proven=False) if version else None)
