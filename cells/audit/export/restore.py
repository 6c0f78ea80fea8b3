"""Restores an export into an empty database: positions, states, entries, outcomes and checkpoints as they were.

It verifies the export line by line and writes it batch by batch, with the writer's own code. Until it is complete the
database is marked, and no cell starts on it. An interrupted run resumes where it stopped.
"""

import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cells.audit.export.lines import event_row, outcome_in
from cells.audit.proofs.ports import ExportHead, ProofStore, SignedCheckpoint
from cells.audit.proofs.store import SQL
from cells.audit.proofs.tree import TreeReader
from cells.audit.verify.export import ExportCheck
from cells.audit.verify.lines import event_in
from cells.audit.verify.note import Malformed, VerifierKey, checkpoint_in
from cells.audit.verify.tree import Frontier, Tile
from cells.domain.events import AnyEvent
from cells.domain.time.window import AHEAD_MAX_MS, WINDOW_MS
from cells.domain.values import Kind, Ref
from cells.encoding import codec
from cells.encoding.derived import PROJECTED
from cells.moves.user_bundle import MovedEvent
from cells.store.outcomes import NO_OUTCOME, OutcomePlace, outcome_place
from cells.store.ports import Batch, EventRow, OutcomeRow, Store
from cells.store.postgres import SQL as STORE_SQL
from cells.store.sessions import Connection
from cells.writer.batch import DecidedBatch
from cells.writer.cache import StateCache

BATCH_EVENTS = 2_000
BATCH_OUTCOMES = 2_000
# How long outcomes are kept. Older ones are not restored: the cell would drop them on its first day.
OUTCOMES_KEPT = timedelta(milliseconds=WINDOW_MS + AHEAD_MAX_MS)


class RestoreRefused(Exception):
    """The export is not restored: the message says why. The database stays unusable for a cell."""


@dataclass(slots=True)
class Restored:
    cell: str = ""
    events: int = 0
    outcomes: int = 0
    outcomes_too_old: int = 0
    checkpoints: int = 0
    # The restored events are signed up to this position.
    signed: int = 0
    root: str = ""


@dataclass(frozen=True, slots=True)
class PostgresIntake:
    """The steps of an import that only the owner of the database may do. `owner` has the owner's role."""

    owner: Connection

    async def begin(self, cell: str) -> tuple[int, int]:
        """Marks the database, which must be empty or have been marked for the same cell, and raises its epoch.

        Returns that epoch, and the position that an earlier run reached. Raises RestoreRefused.
        """
        await self.owner.execute(STORE_SQL["make_head"], cell)
        begun = await self.owner.fetchrow(SQL["import_begin"], cell)
        if begun is None:
            owner, position = await self.owner.fetchrow(SQL["import_head"])  # type: ignore[misc]
            raise RestoreRefused(
                f"the database has the log of {owner}, up to position {position}, and the export is of {cell}: "
                "an export is put back into an empty database"
            )
        return begun["epoch"], begun["position"]

    async def last_outcome(self) -> OutcomePlace:
        found = await self.owner.fetchrow(SQL["last_outcome"])
        return OutcomePlace(*found) if found is not None else NO_OUTCOME

    async def keep_partitions(self, moment: datetime) -> None:
        await self.owner.execute(STORE_SQL["keep_outcome_partitions"], moment)

    async def finish(self, *, epoch: int, saga_engine: str) -> None:
        """Removes the mark."""
        await self.owner.execute(SQL["import_finish"], epoch, saga_engine)


@dataclass(slots=True, kw_only=True)
class Restore:
    """Restores one export. Pass the lines in order; `progress` receives positions."""

    store: Store
    proofs: ProofStore
    intake: PostgresIntake
    keys: Sequence[VerifierKey]
    now: datetime
    progress: Callable[[int, int], None] = lambda _done, _of: None
    _check: ExportCheck = field(init=False)
    _cache: StateCache = field(default_factory=lambda: StateCache(lambda _user_id: 0))
    _frontier: Frontier = field(default_factory=Frontier)
    _header: ExportHead | None = None
    _epoch: int = 0
    _position: int = 0
    _rows: list[EventRow] = field(default_factory=list)
    # The events of one user.
    _moved: list[MovedEvent] = field(default_factory=list)
    _tiles: list[Tile] = field(default_factory=list)
    _checkpoints: list[SignedCheckpoint] = field(default_factory=list)
    _outcomes: list[OutcomeRow] = field(default_factory=list)
    _last_outcome: OutcomePlace = NO_OUTCOME
    _done: Restored = field(default_factory=Restored)
    _last_tile: int = -1
    _last_checkpoint: int = 0

    def __post_init__(self) -> None:
        self._check = ExportCheck(keys=self.keys, numbered=False)

    async def run(self, lines: AsyncIterator[bytes]) -> Restored:
        """Raises RestoreRefused."""
        try:
            async for line in lines:
                await self._take(line)
            return await self._finish()
        except Malformed as error:
            raise RestoreRefused(str(error)) from error

    async def _take(self, line: bytes) -> None:
        content = self._check.read(line)
        self._refuse_problems()
        if self._header is None:
            await self._begin(content)
        elif "position" in content:
            self._add_event(line)
            if len(self._rows) >= BATCH_EVENTS:
                await self._flush()
        elif "moved" in content:
            await self._bring(content["moved"])
        elif "checkpoint" in content and "consistency" not in content:
            self._add_checkpoint(content["checkpoint"])
        elif "outcome" in content:
            self._add_outcome(content["outcome"])
            if len(self._outcomes) >= BATCH_OUTCOMES:
                await self._flush()

    def _refuse_problems(self) -> None:
        if self._check.found.problems:
            raise RestoreRefused(f"the export does not hold: {self._check.found.problems[0]}")

    async def _begin(self, header: dict[str, Any]) -> None:
        if header["from"] != 1 or not header.get("whole"):
            raise RestoreRefused(
                "the export is of a part of the log: a cell is made from a whole one, or commands that are sent again "
                "would happen again"
            )
        with _reading("the first line of the export lacks what a cell is made from"):
            head = header["head"]
            head = ExportHead(
                int(header["to"]), int(head["epoch"]), int(head["hlc_bound_ms"]), str(head["saga_engine"])
            )
        self._epoch, self._position = await self.intake.begin(header["cell"])
        self._header = head
        self._last_outcome = await self.intake.last_outcome()
        self._last_tile = await self.proofs.last_tile(0)
        last = await self.proofs.last_checkpoint(self._position)
        self._last_checkpoint = last.size if last is not None else 0

    def _add_event(self, line: bytes) -> None:
        _, event, stored = event_in(line)
        with _reading(f"position {event.get('position')} is no row of a log"):
            row = event_row(event, bytes.fromhex(stored))
        self._tiles += self._frontier.add(row.leaf_hash)
        # Rows that an earlier run restored are only verified.
        if row.position > self._position:
            self._rows.append(row)

    async def _bring(self, content: dict[str, Any]) -> None:
        """Stores a moved event. Those that an earlier run stored stay as they are."""
        with _reading("what was brought along is no row of a log"):
            row = event_row(content["event"], bytes.fromhex(content["leaf_hash"]))
        if self._moved and (self._moved[-1].row.aggregate_id != row.aggregate_id or len(self._moved) >= BATCH_EVENTS):
            await self._stage()
        self._moved.append(MovedEvent(content["cell"], row))

    async def _stage(self) -> None:
        if self._moved:
            await self.store.stage(self._moved[0].row.aggregate_id, self._moved, ())
            self._moved = []

    def _add_checkpoint(self, text: str) -> None:
        checkpoint = checkpoint_in(text, self.keys)
        body, _, signatures = text.rpartition("\n\n")
        own, *others = [f"{line}\n" for line in signatures.splitlines()]
        # Only the rows tell when the checkpoint was signed.
        at = self._rows[-1].recorded_at if self._rows else self.now
        self._checkpoints.append(
            SignedCheckpoint(checkpoint.size, checkpoint.root, f"{body}\n\n{own}", at, tuple(others))
        )

    def _add_outcome(self, content: dict[str, Any]) -> None:
        with _reading("an outcome cannot be read"):
            row = outcome_in(content)
        if self.now - row.recorded_at > OUTCOMES_KEPT:
            self._done.outcomes_too_old += 1
        elif outcome_place(row) > self._last_outcome:
            self._outcomes.append(row)

    # --- writing ----------------------------------------------------------------------------------------------------

    async def _flush(self) -> None:
        await self._stage()
        batch = await self._batch()
        # The oldest first: outcomes that a later day drops are too old in any case.
        for day in sorted({row.recorded_at.date() for row in self._outcomes}):
            await self.intake.keep_partitions(datetime(day.year, day.month, day.day, tzinfo=UTC))
        batch.rows.outcomes = self._outcomes
        last_ms = self._rows[-1].hlc_physical + 1 if self._rows else 0
        header = self._header or ExportHead(0, 0, 0, "")
        bound_ms = max(header.hlc_bound_ms, last_ms)
        await self.store.append(batch.sealed(epoch=self._epoch, hlc_bound_ms=bound_ms))
        self._position = batch.position
        self._done.outcomes += len(self._outcomes)
        self._rows, self._outcomes = [], []
        await self._flush_proofs()
        self._cache.evict(set)
        self.progress(self._position, header.position)

    async def _batch(self) -> DecidedBatch:
        events = [_decoded(row) for row in self._rows]
        tags = [codec.leg_tag_in(json.loads(row.metadata)) for row in self._rows]
        refs = {Ref(event.kind, row.aggregate_id) for event, row in zip(events, self._rows, strict=True)}
        refs |= {Ref(Kind.LEG, tag.barrier_id) for tag in tags if tag is not None}
        missing = sorted(ref for ref in refs if not self._cache.has(ref))
        # Other kinds have no state besides their stream.
        kept = [ref for ref in missing if ref.kind in PROJECTED or ref.kind is Kind.LEG]
        self._cache.add_loaded(missing, await self.store.load(kept))
        batch = DecidedBatch(cache=self._cache, rows=Batch(position_before=self._position))
        for row, event, tag in zip(self._rows, events, tags, strict=True):
            try:
                batch.replay(row, event, tag)
            except (ValueError, ArithmeticError, LookupError) as error:
                raise RestoreRefused(f"position {row.position} does not follow from those before: {error}") from error
        return batch

    async def _flush_proofs(self) -> None:
        """Writes proofs after their events; those of an earlier run exist already."""
        await self.proofs.add_tiles([tile for tile in self._tiles if self._is_new(tile)])
        for each in self._checkpoints:
            if each.size > self._last_checkpoint:
                await self.proofs.add_checkpoint(each)
            for line in each.lines:
                await self.proofs.add_cosignature(each.size, line.split()[1], line, each.signed_at)
        self._done.checkpoints += len(self._checkpoints)
        self._tiles, self._checkpoints = [], []

    def _is_new(self, tile: Tile) -> bool:
        """Whether the tile is missing. Tiles are written bottom up: upper ones exist if the last one below exists."""
        return ((tile.place + 1) << 8 * tile.level) > self._last_tile + 1

    async def _finish(self) -> Restored:
        if self._header is None:
            raise RestoreRefused("there is nothing in it")
        found = self._check.finish()
        self._refuse_problems()
        await self._flush()
        root = await TreeReader(self.proofs, found.last).root()
        if root != self._frontier.root() or self._position != found.last:
            raise RestoreRefused(
                f"what is in the database does not give the root {found.root} of the export at position {found.last}: "
                "a run before was of another export; begin with an empty database"
            )
        await self.intake.finish(epoch=self._header.epoch, saga_engine=self._header.saga_engine)
        done = self._done
        done.cell, done.events, done.signed, done.root = found.cell, found.last, found.signed, found.root
        return done


def _decoded(row: EventRow) -> AnyEvent:
    with _reading(f"position {row.position}: {row.event_type} cannot be read here"):
        return codec.event_of(row)
    raise AssertionError


@contextmanager
def _reading(problem: str) -> Iterator[None]:
    """Raises RestoreRefused for content that cannot be read."""
    try:
        yield
    except (codec.UnknownEvent, KeyError, TypeError, ValueError) as error:
        raise RestoreRefused(f"{problem}: {error!r}") from error
