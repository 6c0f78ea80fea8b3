"""The same events in other portions, and in another order of their streams."""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cells.audit.reconcile.fold import StoredEvent

if TYPE_CHECKING:
    from uuid import UUID


def portions_of(log: Sequence[StoredEvent], sizes: Sequence[int]) -> list[Sequence[StoredEvent]]:
    """Of these sizes, and one of all that is left."""
    portions, rest = [], list(log)
    for size in sizes:
        portions.append(rest[:size])
        rest = rest[size:]
    return [*portions, rest]


def shuffled(log: Sequence[StoredEvent], seed: int) -> list[StoredEvent]:
    """Streams in another order among each other, each in its own."""
    chance = random.Random(seed)
    streams: dict[UUID, list[StoredEvent]] = {}
    for event in log:
        streams.setdefault(event.aggregate_id, []).append(event)
    mixed = []
    while streams:
        stream = chance.choice(sorted(streams))
        mixed.append(streams[stream].pop(0))
        if not streams[stream]:
            del streams[stream]
    return mixed
