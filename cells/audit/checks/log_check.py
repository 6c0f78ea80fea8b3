"""Checks each row of the log before a replay: against its hash, its leaf in the tree and the signed root.

A replay of unchecked rows would turn a forgery into correct state, so problems of a row are found here first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cells.audit.checks.checked import OTHER_LEAF, UNREADABLE
from cells.audit.reconcile.findings import Check, Report, finding
from cells.audit.reconcile.fold import WRITTEN, StoredEvent
from cells.audit.verify.tree import HASH_BYTES, TILE_WIDTH, Frontier
from cells.domain.record import replace
from cells.encoding.leaves import read_leaf

OTHER_BYTES = "the row's bytes do not give the hash beside it: it is not the row that was written"


@dataclass(slots=True, kw_only=True)
class LogCheck:
    """Pass rows in the order of their positions, from the first position of a pass on. Findings go into its report."""

    report: Report
    # The last signed size and the root of the tree over those events (hexadecimal); 0: no signed size is known.
    signed_size: int = 0
    signed_root: str = ""
    # The tree over the rows' own bytes, up to the signed size; None if it is not needed, or not any more.
    _tree: Frontier | None = None

    def __post_init__(self) -> None:
        # Only a pass from the first event on can recompute the signed root.
        if self.signed_size and self.report.from_position == 0:
            self._tree = Frontier()

    def read(self, rows: Sequence[Any], first: int, last: int, tiles: dict[int, bytes]) -> list[StoredEvent]:
        """The events at positions `first` to `last`. `tiles` has the leaf hashes of full tiles, by tile number."""
        if len(rows) != last + 1 - first:
            there = {row[0] for row in rows}
            for position in sorted(set(range(first, last + 1)) - there):
                self._damaged(f"position {position}", WRITTEN, "no row")
        events = list(map(_read, rows))
        leaves = b"".join([event.leaf_hash for event in events])
        if not _in_place(leaves, first, tiles):
            events = [_placed(event, tiles) for event in events]
        self.report.damaged_count += sum([bool(event.problem) for event in events])
        self._grow(leaves)
        return events

    def end(self, position: int) -> None:
        """Ends the check: the log ends at `position`."""
        if position < self.signed_size:
            self._damaged(f"positions after {position}", f"the {self.signed_size} events that were signed", "no rows")

    def _grow(self, leaves: bytes) -> None:
        """Adds leaves to the tree, unless a row is wrong: then the root would be wrong too."""
        if self.report.damaged_count:
            self._tree = None
        while self._tree is not None and leaves:
            size_bytes = min(self._tree.room(), self.signed_size - self._tree.size) * HASH_BYTES
            self._tree.add(leaves[:size_bytes])
            leaves = leaves[size_bytes:]
            if self._tree.size == self.signed_size:
                root, self._tree = self._tree.root().hex(), None
                if root != self.signed_root:
                    signed = f"the events that were signed, whose tree has the root {self.signed_root}"
                    found = f"rows whose hashes give the root {root}"
                    self._damaged(f"positions 1 to {self.signed_size}", signed, found)

    def _damaged(self, row: str, expected: str, found: str) -> None:
        self.report.damaged_count += 1
        self.report.add([finding(Check.EVENT, row, expected, found)])


def _read(row: Any) -> StoredEvent:  # noqa: ANN401 - a record
    position, event_id, event_type, aggregate_id, stream_version, noted, text = row
    try:
        leaf = read_leaf(event_type, text)
    except UNREADABLE as error:
        problem = f"its JSON is none that the log can hold: {error}"
        return StoredEvent(position, event_id, event_type, aggregate_id, stream_version, None, None, None, problem)
    return StoredEvent(
        position,
        event_id,
        event_type,
        aggregate_id,
        stream_version,
        leaf.version,
        leaf.payload,
        leaf.leg,
        "" if leaf.leaf_hash == noted else OTHER_BYTES,
        leaf.leaf_hash,
    )


def _in_place(leaves: bytes, first: int, tiles: dict[int, bytes]) -> bool:
    """Whether hashes from position `first` on, without a gap, are those of the tiles."""
    for place, hashes in tiles.items():
        begin = place * TILE_WIDTH + 1 - first
        skipped = max(-begin, 0)
        of_tile = leaves[(begin + skipped) * HASH_BYTES : (begin + TILE_WIDTH) * HASH_BYTES]
        if hashes[skipped * HASH_BYTES :][: len(of_tile)] != of_tile:
            return False
    return True


def _placed(event: StoredEvent, tiles: dict[int, bytes]) -> StoredEvent:
    """The event with the problem of a row that has another hash than the tree at its position."""
    place, offset = divmod(event.position - 1, TILE_WIDTH)
    tile = tiles.get(place)
    if event.problem or tile is None or tile[offset * HASH_BYTES : (offset + 1) * HASH_BYTES] == event.leaf_hash:
        return event
    return replace(event, problem=OTHER_LEAF)
