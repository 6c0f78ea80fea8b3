"""Reads the log over and over, slowly, and compares every row with the tree. Runs in the leader.

It finds a row that was changed in the database within a round, without any request. It reads a few rows at a time and
pauses in between, so that it does not delay commands.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from cells.audit.checks.alarms import LogAlarms
from cells.audit.proofs.checkpoint_signer import CheckpointSigner
from cells.audit.proofs.ports import ProofStore, SignedCheckpoint
from cells.audit.proofs.tree import TreeIncomplete, TreeReader
from cells.audit.verify.note import Malformed, number_problem, sequence_in
from cells.audit.verify.tree import TILE_WIDTH, split, tree_root
from cells.background import LeaderTask, in_background
from cells.encoding.codec import leaf_hash
from cells.store.ports import StoreError

log = structlog.get_logger()

# At most a millisecond of work.
ROWS_TOGETHER = 32
AGAIN_S = 5.0
# Logged one by one; beyond that, only that there are more.
LOG_MAX = 20
# Used in place of a position for the tree as a whole. It must not be the current size: an alarm is an event, so the
# next round would find another size and raise another alarm, without end.
WHOLE_TREE = 0


@dataclass(slots=True, kw_only=True)
class LogWatch(LeaderTask):
    checkpoint_signer: CheckpointSigner
    proofs: ProofStore
    events_per_s: int
    alarms: LogAlarms | None = None
    # Changed positions (or WHOLE_TREE) and their problems, of this round and of the last one.
    found: dict[int, str] = field(default_factory=dict)
    before: dict[int, str] = field(default_factory=dict)
    rounds: int = 0

    @property
    def problems(self) -> int:
        """The number of rows known to be wrong."""
        return len({**self.before, **self.found})

    async def start(self) -> None:
        if self.events_per_s:
            self.background.start()

    @in_background("log_watch", every_s=AGAIN_S, outages=(StoreError,))
    async def round(self) -> None:
        """Checks everything that is signed once, from the first tile to the last."""
        self.found = {}
        last = self.checkpoint_signer.last
        if last is not None:
            await self._compare_root(last.size, last.root)
            await self._compare_levels(last.size)
            await self._compare_checkpoints(last)
            for first in range(0, last.size, TILE_WIDTH):
                await self._tile(first, min(TILE_WIDTH, last.size - first))
        if self.alarms is not None:
            found = {f"position {at}" if at else "the tree": problem for at, problem in sorted(self.found.items())}
            await self.alarms.tell("signed log", found)
        self.before, self.found = self.found, {}
        self.rounds += 1

    async def _compare_root(self, size: int, root: bytes) -> None:
        """Checks that the tree used for comparison is the one that was signed."""
        try:
            if await TreeReader(self.proofs, size).root() != root:
                self._tell(WHOLE_TREE, "the tree does not give the root that was signed")
        except TreeIncomplete as error:
            self._tell(WHOLE_TREE, f"the tree has lost what it was made of: {error}")

    async def _compare_levels(self, size: int) -> None:
        """Checks that full tiles above the leaves hold the roots of the full tiles below them."""
        level, count = 1, size // TILE_WIDTH**2
        while count:
            for place in range(count):
                first = place * TILE_WIDTH
                roots = await self.proofs.tile_roots(level - 1, first, first + TILE_WIDTH)
                if await self.proofs.tile(level, place) != roots:
                    self._tell(first * TILE_WIDTH**level + 1, f"tile {place} of level {level} of the tree was changed")
            level, count = level + 1, count // TILE_WIDTH

    async def _compare_checkpoints(self, last: SignedCheckpoint) -> None:
        """Checks that checkpoints are numbered without a gap, and that the last one is the expected one."""
        size, number, there = 0, 0, False
        while size < last.size and (page := await self.proofs.checkpoints(size + 1, ROWS_TOGETHER)):
            for each in page:
                there, before = there or each[:3] == last[:3], number
                try:
                    number = sequence_in(each.note)
                    problem = number_problem(each.size, number, before)
                except Malformed as error:
                    number, problem = before + 1, f"the checkpoint of size {each.size} cannot be read: {error}"
                if problem:
                    self._tell(each.size, problem)
            size = page[-1].size
            await asyncio.sleep(ROWS_TOGETHER / self.events_per_s)
        if not there:
            self._tell(last.size, f"the checkpoint of size {last.size} is missing, or is not what was signed")

    async def _tile(self, first: int, width: int) -> None:
        """Compares the rows of a tile, from leaf `first` on. The last one may not be full: it is not stored."""
        place, tree = first // TILE_WIDTH, list[bytes | None]([None] * width)
        if width == TILE_WIDTH:
            hashes = await self.proofs.tile(0, place)
            if hashes is None:
                # A tile is stored before a checkpoint covers it.
                self._tell(first + 1, f"tile {place} of the tree is missing")
            else:
                leaves = split(hashes)
                tree[:] = leaves
                if await self.proofs.tile_roots(0, place, place + 1) != tree_root(leaves):
                    self._tell(first + 1, f"tile {place} of the tree was changed")
        for offset in range(0, width, ROWS_TOGETHER):
            await self._rows(first + 1 + offset, tree[offset : offset + ROWS_TOGETHER])

    async def _rows(self, first: int, tree: Sequence[bytes | None]) -> None:
        """Compares rows from position `first` on with their hashes in the tree; None: use the row's stored hash."""
        rows = await self.proofs.export_events(first, first + len(tree) - 1, len(tree))
        there = {row.position: row for row in rows}
        for position, leaf in enumerate(tree, first):
            row = there.get(position)
            if row is None:
                self._tell(position, "the row is missing")
            elif leaf_hash(row) != (leaf or row.leaf_hash):
                self._tell(position, "the row is not what the tree was made from")
            elif leaf is not None and row.leaf_hash != leaf:
                self._tell(position, "the hash beside the row is not its own")
        await asyncio.sleep(ROWS_TOGETHER / self.events_per_s)

    def _tell(self, position: int, problem: str) -> None:
        if position not in self.before and len(self.found) < LOG_MAX:
            where = {} if position == WHOLE_TREE else {"position": position}
            log.critical("log_changed", **where, problem=problem)
        self.found[position] = problem
