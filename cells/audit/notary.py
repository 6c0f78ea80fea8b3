"""Grows the log's tree beside the write path, and signs what it has become: a part of the process that leads.

The hashes come from the commits of this very process where it can be, and are read back only to catch up: what is
signed is what was decided, and not what somebody has made of the rows meanwhile.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from cells.audit.frontier import Frontier
from cells.audit.keys import SigningKey, checkpoint_body
from cells.audit.merkle import HASH_BYTES, TILE_WIDTH, Span
from cells.audit.ports import ProofStore, SignedCheckpoint
from cells.audit.tree_reader import TreeIncomplete, TreeReader, frontier_of
from cells.audit.verify.note import Checkpoint, Malformed, checkpoint_in, sequence_in
from cells.background import BackgroundTask
from cells.celltime import CellTime
from cells.group import Commit
from cells.ports import StoreError

log = structlog.get_logger()

LOOK_S = 0.2
# How long the last checkpoint may take when this process stops to lead.
STOP_S = 2.0
# So many hashes wait in memory at most; beyond, they are read back.
FRESH_BYTES_MAX = 8 * 1024 * 1024
# Tiles to be written together while catching up: half a megabyte.
TILES_TOGETHER = 64


class Memo(Protocol):
    """Keeps the last checkpoint outside of the database: what a stale backup of that is found out by."""

    def last(self) -> Checkpoint | None: ...

    async def keep(self, note: str) -> None: ...


class LogBroken(Exception):
    """What is stored does not give what was signed."""


@dataclass(slots=True)
class Fresh:
    """Leaf hashes as they became durable, from leaf `first` on."""

    first: int = 0
    hashes: bytearray = field(default_factory=bytearray)

    def follow(self, commit: Commit) -> None:
        if not commit.events:
            return
        if len(self.hashes) >= FRESH_BYTES_MAX:
            self.hashes.clear()
        if not self.hashes:
            self.first = commit.events[0].row.position - 1
        self.hashes += b"".join([event.row.leaf_hash for event in commit.events])

    def take(self, first: int, count: int) -> bytes:
        """At most `count` from leaf `first` on, which are forgotten with all before; none where it begins later."""
        skip = (first - self.first) * HASH_BYTES
        if not self.hashes or skip < 0:
            return b""
        taken = bytes(self.hashes[skip : skip + count * HASH_BYTES])
        del self.hashes[: skip + len(taken)]
        self.first = first + len(taken) // HASH_BYTES
        return taken


@dataclass(slots=True, kw_only=True)
class Notary:
    store: ProofStore
    time: CellTime
    # None: the tree grows, and nobody signs.
    key: SigningKey | None
    memo: Memo | None
    events_max: int
    pause_max_s: float
    # Up to this position an operator takes the log as it is, whoever has signed it.
    accepted: int = 0
    # Called with each new checkpoint.
    signed: Callable[[SignedCheckpoint], None] = lambda _: None
    last: SignedCheckpoint | None = None
    # Its number, by which a checkpoint that is missing is found.
    _sequence: int = 0
    # Why nothing is signed any more.
    broken: str = ""
    _fresh: Fresh = field(default_factory=Fresh)
    _frontier: Frontier = field(default_factory=Frontier)
    background: BackgroundTask = field(init=False)
    # When an event was first seen that no checkpoint covers.
    _unsigned_s: float | None = None

    def __post_init__(self) -> None:
        outages = (StoreError, OSError)
        self.background = BackgroundTask(name="checkpoints", work=self._sign_on, every_s=None, outages=outages)

    def follow(self, commit: Commit) -> None:
        if self.background.running:
            self._fresh.follow(commit)

    async def start(self) -> None:
        self.background.start()

    async def stop(self) -> None:
        """What is durable is signed before, if that can be done at once."""
        if not self.background.running:
            return
        await self.background.stop()
        with suppress(StoreError, TimeoutError, TreeIncomplete, LogBroken, OSError):
            async with asyncio.timeout(STOP_S):
                if self.last is not None and not self.broken:
                    await self._resume()
                    await self._compare_with_signed()
                    await self._grow()
                    await self._sign()
        self._fresh = Fresh()

    async def _sign_on(self) -> None:
        """Returns where the log turns out to be broken: nothing is signed any more."""
        try:
            await self._resume()
            await self._compare_with_signed()
            while not self.broken:
                await self._grow()
                if self._due():
                    await self._sign()
                await asyncio.sleep(LOOK_S)
        except (LogBroken, TreeIncomplete) as error:
            self.broken = str(error)
            log.critical("log_broken", cell=self.time.cell, problem=self.broken)

    @property
    def unsigned_s(self) -> float:
        """How long the oldest event waits to be signed; 0 where none does, or nobody signs."""
        if self._unsigned_s is None or self.key is None:
            return 0.0
        return self.time.clock.monotonic_s() - self._unsigned_s

    # --- growing ----------------------------------------------------------------------------------------------------

    async def _resume(self) -> None:
        """Takes up what is stored: another process may have led meanwhile, or a write of our own was lost."""
        self._frontier = await frontier_of(self.store)
        self.last = await self.store.last_checkpoint(self.time.durable_position)
        if self.last is not None and self.key is not None and self.last.size > self.accepted:
            self._check_signature(self.last, self.key)
        self._sequence = sequence_in(self.last.note) if self.last is not None else 0

    def _check_signature(self, checkpoint: SignedCheckpoint, key: SigningKey) -> None:
        """What is stored as signed was signed by this cell. Raises LogBroken."""
        try:
            found = checkpoint_in(checkpoint.note, [key.verifier])
        except Malformed as error:
            raise LogBroken(
                f"the checkpoint over {checkpoint.size} events is not of this cell's key: {error}"
            ) from None
        if (found.size, found.root) != (checkpoint.size, checkpoint.root):
            raise LogBroken(f"the checkpoint over {checkpoint.size} events is over {found.size}, as it was signed")

    async def _grow(self) -> None:
        """Up to where the log is durable."""
        end, tiles = self.time.durable_position, []
        while self._frontier.size < end:
            tiles += self._frontier.add(await self._leaves(end))
            if len(tiles) >= TILES_TOGETHER:
                await self.store.add_tiles(tiles)
                tiles = []
            # A tile is a third of a millisecond: the writer has its turn after each.
            await asyncio.sleep(0)
        await self.store.add_tiles(tiles)

    async def _leaves(self, end: int) -> bytes:
        """What comes next, at most up to the end of a tile."""
        first = self._frontier.size
        count = min(self._frontier.room(), end - first)
        leaves = self._fresh.take(first, count) or await self.store.leaf_hashes(first, first + count)
        if not leaves:
            raise LogBroken(f"position {first + 1} is missing: the log's head is at {end}")
        return leaves

    # --- signing ----------------------------------------------------------------------------------------------------

    def _due(self) -> bool:
        unsigned = self._frontier.size - (self.last.size if self.last else 0)
        if not unsigned:
            self._unsigned_s = None
            return False
        now_s = self.time.clock.monotonic_s()
        self._unsigned_s = now_s if self._unsigned_s is None else self._unsigned_s
        return unsigned >= self.events_max or now_s - self._unsigned_s >= self.pause_max_s

    async def _sign(self) -> None:
        size = self._frontier.size
        if self.key is None or size == (self.last.size if self.last else 0):
            return
        checkpoint = self._checkpoint(self.key, size, self._frontier.root(), self._sequence + 1)
        if self.memo is not None:
            # First: of what was ever signed, it is to know.
            await self.memo.keep(checkpoint.note)
        await self._add(checkpoint)

    def _checkpoint(self, key: SigningKey, size: int, root: bytes, sequence: int) -> SignedCheckpoint:
        body = checkpoint_body(key.name, size, root, sequence)
        return SignedCheckpoint(size, root, f"{body}\n{key.sign(body)}", self.time.clock.wall())

    async def _add(self, checkpoint: SignedCheckpoint) -> None:
        await self.store.add_checkpoint(checkpoint)
        self.last, self._unsigned_s = checkpoint, None
        self._sequence = sequence_in(checkpoint.note)
        self.signed(checkpoint)

    async def _compare_with_signed(self) -> None:
        """No two branches are ever signed: what is stored must still give the last root. Raises LogBroken."""
        noted = self.memo.last() if self.memo is not None else None
        for size, root in [(each.size, each.root) for each in (self.last, noted) if each is not None]:
            if size > self.time.durable_position:
                raise LogBroken(f"{size} events were signed, and the log ends at {self.time.durable_position}")
            if await self._root(size) != root:
                raise LogBroken(f"the events up to position {size} are not those that were signed")
        if self.key is not None and noted is not None and noted.size > (self.last.size if self.last else 0):
            # Signed, and lost on the way to the database or from there: the numbers have no gap. It is the same to the
            # byte, as such signatures are.
            log.warning("checkpoint_put_back", cell=self.time.cell, position=noted.size)
            await self._add(self._checkpoint(self.key, noted.size, noted.root, noted.sequence))

    async def _root(self, size: int) -> bytes:
        await self._catch_up(size)
        return await TreeReader(self.store, size).hash_of(Span(0, size))

    async def _catch_up(self, size: int) -> None:
        """Full tiles of what was signed are there, unless the memo knows of a checkpoint that was lost with them."""
        if self._frontier.size // TILE_WIDTH < size // TILE_WIDTH:
            await self._grow()
