"""A log that was written once and is replayed for ever: `python -m tests.golden` writes it anew.

tests/golden/log.jsonl holds a line an event, its hash and its leaf as docs/log-format.md has it, and then a line an
aggregate, with the state that the log comes to. Every kind of event and of saga is in it. A program that does not read
it, hashes it otherwise, or comes to another state does not read what its predecessors have written either: write it
anew only where kinds of events or sagas have been added, and add by hand what is written no more, from the log that is
there.
"""

import asyncio
import json
from collections import defaultdict
from contextlib import AsyncExitStack
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from cells.audit.reconcile.fold import StoredEvent
from cells.domain.commands import PlaceBid
from cells.domain.values import Kind
from cells.encoding.codec import leaf_bytes
from cells.encoding.leaves import LEAF_PREFIX
from tests.doubles.store import MemoryStore

LOG = Path(__file__).with_name("golden") / "log.jsonl"
CELL = "us-east"
# Kinds of events that no program writes any more, and every program reads.
RETIRED = frozenset({"LEG_CARRIED", "REFERENCES_CARRIED"})


class Golden(NamedTuple):
    events: list[StoredEvent]
    # Aggregate -> its kind, and the text of its state.
    states: dict[UUID, tuple[Kind, str]]

    def streams(self) -> dict[UUID, list[StoredEvent]]:
        found: defaultdict[UUID, list[StoredEvent]] = defaultdict(list)
        for event in self.events:
            found[event.aggregate_id].append(event)
        return found


def read() -> Golden:
    """Raises AssertionError where a leaf does not have its hash."""
    golden = Golden([], {})
    for line in LOG.read_text().splitlines():
        what, _, text = line.partition(" ")
        if what == "state":
            kind, aggregate_id, state = text.split(" ", 2)
            golden.states[UUID(aggregate_id)] = Kind(kind), state
        else:
            assert sha256(LEAF_PREFIX + text.encode()).hexdigest() == what
            golden.events.append(_event(json.loads(text)))
    return golden


def _event(leaf: dict[str, object]) -> StoredEvent:
    metadata = leaf["metadata"]
    assert isinstance(metadata, dict)
    return StoredEvent(
        int(str(leaf["position"])),
        UUID(str(leaf["event_id"])),
        str(leaf["event_type"]),
        UUID(str(leaf["aggregate_id"])),
        int(str(leaf["stream_version"])),
        metadata["v"],
        leaf["payload"],
        metadata.get("leg"),
    )


async def write() -> None:
    # A reader needs none of it.
    from tests.integration.story import AWAY, opened_story, usd  # noqa: PLC0415
    from tests.local_cells import open_auction, open_user  # noqa: PLC0415

    store = MemoryStore(CELL)
    async with AsyncExitStack() as stack:
        story = await opened_story(stack, store, MemoryStore(AWAY))
        await story.tell()
        bidder = await open_user(story.here, 1_000, story.directory)
        auction = await open_auction(story.away, await open_user(story.away, 0, story.directory))
        await story.do(PlaceBid(auction_id=auction, auction_cell=AWAY, bidder_id=bidder, amount=usd(200)))
    lines = [f"{row.leaf_hash.hex()} {leaf_bytes(row).decode()}" for row in store.log]
    lines += [f"state {ref.kind} {ref.id} {row.state}" for ref, row in sorted(store.projections.items())]
    LOG.parent.mkdir(exist_ok=True)
    LOG.write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    asyncio.run(write())
