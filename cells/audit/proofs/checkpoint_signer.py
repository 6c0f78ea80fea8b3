"""Grows the log's tree outside the write path, and signs it. Runs in the leader.

The hashes come from the commits of this process where possible, and are read back only to catch up. So the signature
covers the events as decided, not rows that were changed afterwards.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from cells.audit.proofs.keys import SigningKey, checkpoint_body
from cells.audit.proofs.ports import ProofStore, SignedCheckpoint
from cells.audit.proofs.tree import TreeIncomplete, TreeReader, frontier_of
from cells.audit.verify.note import Checkpoint, Malformed, checkpoint_in, sequence_in
from cells.audit.verify.tree import HASH_BYTES, TILE_WIDTH, Frontier
from cells.background import Background, in_background
from cells.store.ports import StoreError
from cells.time.celltime import CellTime
from cells.writer.batch import Commit

log = structlog.get_logger()

POLL_S = 0.2
# How long the last checkpoint may take when this process stops leading.
STOP_S = 2.0
# The bytes of hashes that may wait in memory; beyond that, they are read back.
FRESH_BYTES_MAX = 8 * 1024 * 1024
# Tiles per write while catching up: half a megabyte.
TILES_TOGETHER = 64


class CheckpointKeeper(Protocol):
    """Stores the last checkpoint outside the database, to detect a database restored from a stale backup."""

    def last(self) -> Checkpoint | None: ...

    async def keep(self, note: str) -> None: ...


class LogBroken(Exception):
    """The stored log does not give the signed root."""


@dataclass(slots=True)
class Fresh:
    """Leaf hashes in the order in which they became durable, from leaf `first` on."""

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
        """Removes and returns at most `count` hashes from leaf `first` on; none if the first one here is later."""
        skip = (first - self.first) * HASH_BYTES
        if not self.hashes or skip < 0:
            return b""
        taken = bytes(self.hashes[skip : skip + count * HASH_BYTES])
        del self.hashes[: skip + len(taken)]
        self.first = first + len(taken) // HASH_BYTES
        return taken


@dataclass(slots=True, kw_only=True)
class CheckpointSigner(Background):
    store: ProofStore
    time: CellTime
    # None: the tree grows, but is not signed.
    key: SigningKey | None
    checkpoint_file: CheckpointKeeper | None
    events_max: int
    pause_max_s: float
    # An operator has accepted the log up to this position, whichever key signed it.
    accepted: int = 0
    # Called with each new checkpoint.
    signed: Callable[[SignedCheckpoint], None] = lambda _: None
    last: SignedCheckpoint | None = None
    # Why signing has stopped.
    broken: str = ""
    _fresh: Fresh = field(default_factory=Fresh)
    _frontier: Frontier = field(default_factory=Frontier)
    # When an event without a checkpoint was first seen.
    _unsigned_s: float | None = None

    def follow(self, commit: Commit) -> None:
        if self.background.running:
            self._fresh.follow(commit)

    async def start(self) -> None:
        self.background.start()

    async def stop(self) -> None:
        """Stops, after signing the durable events if that is possible at once."""
        if not self.background.running:
            return
        await self.background.stop()
        with suppress(StoreError, TimeoutError, TreeIncomplete, LogBroken, OSError):
            async with asyncio.timeout(STOP_S):
                if self.last is not None and not self.broken:
                    await self._resume()
                    await self._grow()
                    await self._sign()
        self._fresh = Fresh()

    @in_background("checkpoints", every_s=None, outages=(StoreError, OSError))
    async def _sign_on(self) -> None:
        """Signs on; returns if the log turns out to be broken, and signing then stops."""
        try:
            await self._resume()
            while not self.broken:
                await self._grow()
                if self._due():
                    await self._sign()
                await asyncio.sleep(POLL_S)
        except (LogBroken, TreeIncomplete) as error:
            self.broken = str(error)
            log.critical("log_broken", cell=self.time.cell, problem=self.broken)

    @property
    def unsigned_s(self) -> float:
        """How long the oldest unsigned event has waited; 0 if there is none, or nothing is signed."""
        if self._unsigned_s is None or self.key is None:
            return 0.0
        return self.time.clock.monotonic_s() - self._unsigned_s

    @property
    def _signed_size(self) -> int:
        return self.last.size if self.last is not None else 0

    # --- growing ----------------------------------------------------------------------------------------------------

    async def _resume(self) -> None:
        """Loads and checks the stored state: another process may have led, or a write of this one was lost."""
        self._frontier = await frontier_of(self.store)
        self.last = await self.store.last_checkpoint(self.time.durable_position)
        if self.last is not None and self.key is not None and self.last.size > self.accepted:
            self._check_signature(self.last, self.key)
        await self._compare_with_signed()

    def _check_signature(self, checkpoint: SignedCheckpoint, key: SigningKey) -> None:
        """Checks that this cell signed the stored checkpoint. Raises LogBroken."""
        try:
            found = checkpoint_in(checkpoint.note, [key.verifier])
        except Malformed as error:
            raise LogBroken(
                f"the checkpoint over {checkpoint.size} events is not of this cell's key: {error}"
            ) from None
        if (found.size, found.root) != (checkpoint.size, checkpoint.root):
            raise LogBroken(f"the checkpoint over {checkpoint.size} events is over {found.size}, as it was signed")

    async def _grow(self) -> None:
        """Grows the tree up to the durable end of the log."""
        end, tiles = self.time.durable_position, []
        while self._frontier.size < end:
            tiles += self._frontier.add(await self._leaves(end))
            if len(tiles) >= TILES_TOGETHER:
                await self.store.add_tiles(tiles)
                tiles = []
            # A tile takes a third of a millisecond; the writer can run after each.
            await asyncio.sleep(0)
        await self.store.add_tiles(tiles)

    async def _leaves(self, end: int) -> bytes:
        """The next leaf hashes, at most up to the end of a tile."""
        first = self._frontier.size
        count = min(self._frontier.room(), end - first)
        leaves = self._fresh.take(first, count) or await self.store.leaf_hashes(first, first + count)
        if not leaves:
            raise LogBroken(f"position {first + 1} is missing: the log's head is at {end}")
        return leaves

    # --- signing ----------------------------------------------------------------------------------------------------

    def _due(self) -> bool:
        unsigned = self._frontier.size - self._signed_size
        if not unsigned:
            self._unsigned_s = None
            return False
        now_s = self.time.clock.monotonic_s()
        self._unsigned_s = now_s if self._unsigned_s is None else self._unsigned_s
        return unsigned >= self.events_max or now_s - self._unsigned_s >= self.pause_max_s

    async def _sign(self) -> None:
        size = self._frontier.size
        if self.key is None or size == self._signed_size:
            return
        # Numbers reveal missing checkpoints.
        number = sequence_in(self.last.note) if self.last is not None else 0
        checkpoint = self._checkpoint(self.key, size, self._frontier.root(), number + 1)
        if self.checkpoint_file is not None:
            # First, so that the checkpoint file knows every checkpoint that was ever signed.
            await self.checkpoint_file.keep(checkpoint.note)
        await self._add(checkpoint)

    def _checkpoint(self, key: SigningKey, size: int, root: bytes, sequence: int) -> SignedCheckpoint:
        body = checkpoint_body(key.name, size, root, sequence)
        return SignedCheckpoint(size, root, key.note(body), self.time.clock.wall())

    async def _add(self, checkpoint: SignedCheckpoint) -> None:
        await self.store.add_checkpoint(checkpoint)
        self.last, self._unsigned_s = checkpoint, None
        self.signed(checkpoint)

    async def _compare_with_signed(self) -> None:
        """Checks that the stored log still gives the last root, to never sign a second branch. Raises LogBroken."""
        noted = self.checkpoint_file.last() if self.checkpoint_file is not None else None
        for size, root in [(each.size, each.root) for each in (self.last, noted) if each is not None]:
            if size > self.time.durable_position:
                raise LogBroken(f"{size} events were signed, and the log ends at {self.time.durable_position}")
            # Full tiles of a checkpoint that the checkpoint file knows may be lost with the database's last writes.
            if self._frontier.size // TILE_WIDTH < size // TILE_WIDTH:
                await self._grow()
            if await TreeReader(self.store, size).root() != root:
                raise LogBroken(f"the events up to position {size} are not those that were signed")
        if self.key is not None and noted is not None and noted.size > self._signed_size:
            # The checkpoint was signed, but is missing from the database. Numbers must have no gap, so store it. Its
            # bytes are identical, because these signatures are deterministic.
            log.warning("checkpoint_put_back", cell=self.time.cell, position=noted.size)
            await self._add(self._checkpoint(self.key, noted.size, noted.root, noted.sequence))
