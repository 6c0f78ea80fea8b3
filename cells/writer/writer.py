"""The single writer of a cell: queue -> batch -> decide -> one commit (docs/concepts.md).

While one batch commits, the next is decided on top of it. The states of the first stay in memory until it is durable;
if it fails, both are discarded and the second is decided again from durable state.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from cells.domain.commands import AuditRecord
from cells.domain.decision import LedgerPolicy
from cells.domain.record import replace
from cells.domain.refusals import CommandIdReused, DeadlinePassed, NotLeading, Refused, Unavailable
from cells.domain.time.window import outside_window
from cells.requests import Author, CommandKey, CommandRequest, Outcome, request_of_cell
from cells.store.ports import Batch, CommitUnknown, Fenced, Head, Ids, Poisoned, Store, StoreError, StoreUnavailable
from cells.time.celltime import CellTime
from cells.writer.batch import Commit, DecidedBatch
from cells.writer.cache import StateCache
from cells.writer.decider import Decider
from cells.writer.queue import CommandQueue, Pending

log = structlog.get_logger()

BATCH_MAX = 512
# This many commands are decided before other tasks in this process get their turn.
SLICE = 16
# Event loop turns between two callbacks of a request: grpc.aio needs about five to accept one.
TURNS = 6
# While a commit is under way, accumulate at most this many commands before deciding them. They cannot be committed
# before it ends, and each lookup of outcomes or states is a query of its own.
GATHERED = 64
BEAT_S = 0.25
# How far ahead the clock's bound is promised: a successor may have to wait this long.
HLC_AHEAD_MS = 1_000
RECOVERY_PAUSE_S = 0.2
SETTLE_S = 0.01


@dataclass(slots=True, kw_only=True)
class Writer:
    """Leads until another process raises the epoch. `followers` receive every commit, in order."""

    store: Store
    ids: Ids
    time: CellTime
    policy: LedgerPolicy
    # The number of durable sagas in flight, by the user or cell whose number is limited.
    begun: Mapping[UUID | str, int] = field(default_factory=dict)
    queue: CommandQueue = field(default_factory=CommandQueue)
    batch_max: int = BATCH_MAX
    followers: list[Callable[[Commit], None]] = field(default_factory=list)
    leading: bool = False
    epoch: int = 0
    cache: StateCache = field(init=False)
    _decider: Decider = field(init=False)
    deciding: dict[CommandKey, Pending] = field(default_factory=dict)  # and those being written to the log
    # Its transaction is under way.
    _committing: DecidedBatch | None = None
    # Decided on top of it.
    _open: DecidedBatch | None = None
    _stopping: bool = False
    _written_s: float = 0.0

    def __post_init__(self) -> None:
        self.cache = StateCache(self._open_flows)
        self._decider = Decider(store=self.store, ids=self.ids, time=self.time, policy=self.policy, cache=self.cache)

    # --- the callers' side ------------------------------------------------------------------------------------------

    def submit(self, request: CommandRequest) -> asyncio.Future[Outcome]:
        """Queues the command; the future gets its durable answer. A caller that stops waiting undoes nothing.

        Raises:
            Refused: QueueFull or NotLeading; the future gets any other refusal, DeadlinePassed or Unavailable too.
        """
        pending = self._pending(request)
        self.queue.put(pending)
        return pending.waiters[0]

    def submit_all(self, requests: Iterable[CommandRequest]) -> list[asyncio.Future[Outcome]]:
        """Queues commands of one client in sequence, all or none; the futures get their durable answers.

        Raises:
            Refused: QueueFull or NotLeading; none is queued.
        """
        pendings = list(map(self._pending, requests))
        self.queue.put_all(pendings)
        return [pending.waiters[0] for pending in pendings]

    def _pending(self, request: CommandRequest) -> Pending:
        if not self.leading:
            raise NotLeading(cell=self.time.cell)
        return Pending(request=request, waiters=[asyncio.get_running_loop().create_future()])

    def check_room(self, principal: str, commands: int) -> None:
        """Raises the refusal that this many more commands of the client would get: QueueFull or NotLeading."""
        if not self.leading:
            raise NotLeading(cell=self.time.cell)
        self.queue.check_room(principal, commands, 0)

    async def record(self, command: AuditRecord, author: Author | None = None) -> None:
        """Submits a command of the cell itself. Raises Refused."""
        command_id = self.ids.event_id()
        # The outcome is stored like any other, so that it can be queried.
        fingerprint = command_id.bytes
        await self.submit(request_of_cell(self.time.cell, command, command_id, author=author, fingerprint=fingerprint))

    def under_way(self, command_id: UUID) -> list[CommandRequest]:
        """The commands under that id, one per sender, that are waiting, being decided or being written to the log."""
        pendings = (*self.deciding.values(), *self.queue)
        return [pending.request for pending in pendings if pending.request.command_id == command_id]

    # --- leading ----------------------------------------------------------------------------------------------------

    async def lead(self, head: Head) -> None:
        """Writes under the epoch of `head` until stopped or deposed. Raises Fenced when deposed."""
        self.epoch = head.epoch
        self.time.resume(head)
        self.cache.clear()
        self._open, self._stopping = None, False
        try:
            # The clock's bound must be promised before the first stamp is issued, so leading starts with this commit.
            self._launch(self._next_batch())
            await self.ready()
            self.leading = self.time.leading = True
            while not (self._stopping and self._idle()):
                await self._turn()
            await self._step_down()
        finally:
            self.leading = self.time.leading = False
            await self._drop_everything()

    async def ready(self) -> None:
        """Returns once the first commit under the new epoch is durable, or leading has ended."""
        if self._committing is not None and self._committing.commit is not None:
            await asyncio.wait([self._committing.commit])

    async def settled(self) -> None:
        """Returns once everything decided or being committed now is durable or discarded."""
        before = {id(batch): batch for batch in self.batches() if batch.answers}
        while any(id(batch) in before for batch in self.batches()):  # noqa: ASYNC110
            await asyncio.sleep(SETTLE_S)

    def stop(self) -> None:
        """Lets the writer finish waiting commands, and return."""
        self._stopping = True
        self.queue.wake()

    async def _step_down(self) -> None:
        """Marks in the head row that nobody leads: a successor need not wait for a missed beat."""
        self.leading, bound_ms = False, self.time.fall_silent()
        rows = self._new_batch(self.time.durable_position).sealed(epoch=self.epoch, hlc_bound_ms=bound_ms)
        await self.store.append(replace(rows, stepping_down=True))

    def _idle(self) -> bool:
        return not len(self.queue) and self._committing is None and not self._next_batch().answers

    async def _turn(self) -> None:
        await self._wait()
        ahead = self._committing
        if ahead is not None and ahead.commit is not None and ahead.commit.done():
            self._committing, failure = None, ahead.commit.result()
            if failure is not None:
                await self._recover(ahead, failure)
                return
        await self._let_arrive()
        await self._decide_waiting()
        batch = self._next_batch()
        if self._committing is None and (batch.answers or self._beat_due()):
            self._launch(batch)

    async def _wait(self) -> None:
        """Waits until there are enough commands, the commit under way has ended, or a beat is due."""
        decided = len(self._next_batch().answers)
        if self._committing is None:
            ready, enough = decided > 0, 1.0
        else:
            ready, enough = not self._under_way, GATHERED if decided < self.batch_max else math.inf
        if ready:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(BEAT_S):
                await self.queue.filled(enough)

    async def _let_arrive(self) -> None:
        """Yields until no more requests arrive, before a commit begins without them.

        It takes no time: it ends as soon as a turn of the event loop brings nothing.
        """
        while len(self.queue) < self.batch_max and not self._under_way:
            waiting = len(self.queue)
            for _ in range(TURNS):
                await asyncio.sleep(0)
            if len(self.queue) == waiting:
                return

    @property
    def _under_way(self) -> bool:
        """Whether a commit is."""
        batch = self._committing
        return batch is not None and batch.commit is not None and not batch.commit.done()

    def _next_batch(self) -> DecidedBatch:
        if self._open is None:
            ahead = self._committing
            self._open = self._new_batch(self.time.durable_position if ahead is None else ahead.position)
            self._open.brought_ahead = ahead.rows.brought_outcomes if ahead is not None else ()
        return self._open

    def _new_batch(self, position_before: int) -> DecidedBatch:
        return DecidedBatch(cache=self.cache, rows=Batch(position_before=position_before))

    # --- deciding ---------------------------------------------------------------------------------------------------

    async def _decide_waiting(self) -> None:
        batch, now_ms, now_s = self._next_batch(), self.time.steady_ms(), self.time.clock.monotonic_s()
        taken = self.queue.take(self.batch_max - len(batch.answers), now_s)
        await self._decide_all(batch, [pending for pending in taken if self._register(pending, now_ms, now_s)])

    async def _decide_all(self, batch: DecidedBatch, fresh: list[Pending]) -> None:
        """Decides `fresh` in order into `batch`; commands that cannot be decided now are answered at once."""
        undecided = deque(fresh)
        try:
            undecided = deque(await self._without_known(fresh))
            self.time.check()
            while undecided:
                batch.read_clocks(self.time)
                await self._decider.decide_first(batch, undecided, SLICE)
                if self._committing is not None:
                    # The commit under way needs the event loop now and then, or PostgreSQL waits for us.
                    await asyncio.sleep(0)
        except StoreError as error:
            self._fail(undecided, Unavailable(problem=str(error)))
        except Refused as error:
            self._fail(undecided, error)

    def _register(self, pending: Pending, now_ms: int, now_s: float) -> bool:
        """False if the command needs no deciding: given up, too late, or already under way."""
        request = pending.request
        if pending.given_up:
            return False
        passed = request.deadline_s is not None and now_s > request.deadline_s
        late = DeadlinePassed() if passed else outside_window(request.command_id, now_ms)
        if late is not None:
            pending.answer(late)
            return False
        twin = self.deciding.setdefault(request.key, pending)
        if twin is pending:
            return True
        if twin.request.fingerprint != request.fingerprint:
            pending.answer(CommandIdReused(command_id=str(request.command_id)))
        else:
            twin.waiters.extend(pending.waiters)
        return False

    async def _without_known(self, pendings: list[Pending]) -> list[Pending]:
        """Answers commands whose outcome is stored. They are registered, so no duplicate slips through meanwhile."""
        known = await self._decider.answers_before(pendings)
        for pending, answer in known.items():
            self.deciding.pop(pending.request.key, None)
            pending.answer(answer)
        return [pending for pending in pendings if pending not in known]

    # --- committing -------------------------------------------------------------------------------------------------

    def _launch(self, batch: DecidedBatch) -> None:
        """Starts the batch's transaction in a task of its own, which no caller's cancellation reaches.

        Its rows are made before that, because the next batch changes the cached states.
        """
        batch.commit = asyncio.create_task(self._commit(batch, self._sealed(batch)))
        batch.commit.add_done_callback(lambda _: self.queue.wake())
        self._committing, self._open = batch, None

    def _sealed(self, batch: DecidedBatch) -> Batch:
        bound_ms = max(self.time.steady_ms(), self.time.hlc.last.physical_ms) + HLC_AHEAD_MS
        return batch.sealed(epoch=self.epoch, hlc_bound_ms=bound_ms)

    async def _commit(self, batch: DecidedBatch, rows: Batch) -> StoreError | None:
        # Answers without rows wait for no commit, but for a beat: a stream of them would otherwise delay all beats.
        if not batch.answers or not rows.is_beat or self._beat_due():
            self._written_s, claims = self.time.clock.monotonic_s(), self.time.open_claims()
            try:
                await self.store.append(rows)
            except StoreError as error:
                return error
            self.time.confirm(claims, position=rows.position_after, bound_ms=rows.hlc_bound_ms)
            self._durable(batch, write_s=self.time.clock.monotonic_s() - self._written_s)
        else:
            self._durable(batch)
        return None

    def _beat_due(self) -> bool:
        return self.time.clock.monotonic_s() - self._written_s >= BEAT_S

    def _durable(self, batch: DecidedBatch, write_s: float = 0.0) -> None:
        """The batch is durable: informs callers and followers. If one of them fails, this lead ends."""
        self.time.durable_position = batch.position
        commit = Commit(batch.committed, batch.endings, len(batch.answers), write_s, batch.snapshots)
        for pending, answer in batch.answers:
            self.deciding.pop(pending.request.key, None)
            pending.answer(answer)
        for follower in self.followers:
            follower(commit)
        self.cache.evict(lambda: {ref for batch in self.batches() for ref in batch.touched})

    def _open_flows(self, begun_by: UUID | str) -> int:
        return self.begun.get(begun_by, 0) + sum(batch.begun[begun_by] for batch in self.batches())

    def batches(self) -> list[DecidedBatch]:
        """The batches that are decided and not known to be durable."""
        return [batch for batch in (self._open, self._committing) if batch is not None]

    # --- when a commit fails ----------------------------------------------------------------------------------------

    async def _recover(self, failed: DecidedBatch, failure: StoreError) -> None:
        """Discards everything that is not durable. Later commands return to the queue, to be decided again."""
        self._throw_away(failed)
        pendings = failed.pendings
        match failure:
            case Fenced():
                self._fail(pendings, NotLeading(cell=self.time.cell))
                raise failure
            case Poisoned():
                log.warning("batch_poisoned", sqlstate=failure.sqlstate, commands_count=len(pendings))
                await self._bisect(failed, pendings, failure)
            case CommitUnknown():
                await self._resolve_unknown(failed)
            case _:
                log.warning("store_unavailable", problem=str(failure))
                self._fail(pendings, Unavailable(problem=str(failure)))
                await asyncio.sleep(RECOVERY_PAUSE_S)

    def _throw_away(self, failed: DecidedBatch) -> None:
        successor, self._open = self._open, None
        self.cache.forget(failed.touched)
        if successor is not None:
            self.cache.forget(successor.touched)
            for pending in successor.pendings:
                self.deciding.pop(pending.request.key, None)
            self.queue.put_back(successor.pendings)

    def _fail(self, pendings: Iterable[Pending], error: Exception) -> None:
        for pending in pendings:
            self.deciding.pop(pending.request.key, None)
            pending.answer(error)

    async def _bisect(self, failed: DecidedBatch, pendings: list[Pending], failure: Poisoned) -> None:
        """Commits halves, and halves of halves, until the one command that cannot be stored is found and refused."""
        if len(pendings) <= 1:
            self._fail(pendings, failed.not_stored(failure))
            return
        middle = len(pendings) // 2
        for half in (pendings[:middle], pendings[middle:]):
            batch = self._new_batch(self.time.durable_position)
            await self._decide_all(batch, half)
            again = await self._commit(batch, self._sealed(batch))
            if again is not None:
                await self._recover(batch, again)

    async def _resolve_unknown(self, batch: DecidedBatch) -> None:
        """The connection was lost in COMMIT, and the old backend may still commit.

        Raising the epoch waits for the old transaction's lock on the head row; after that the head is certain.
        """
        while True:
            try:
                head = await self.store.claim(expected_epoch=self.epoch)
                break
            except StoreUnavailable as error:
                log.warning("commit_unknown", problem=str(error))
                # Still under way: whether they happened is unknown.
                for pending in batch.pendings:
                    pending.answer(Unavailable(problem=str(error)))
                if self._stopping:
                    raise
                await asyncio.sleep(RECOVERY_PAUSE_S)
        self.epoch = head.epoch
        # Refusals alone move no position, so it does not show whether they were stored.
        committed = bool(batch.rows.events) and head.position == batch.position
        log.info("commit_resolved", committed=committed, position=head.position)
        if committed:
            self._durable(batch)
        else:
            self._fail(batch.pendings, Unavailable(problem="connection lost before the commit"))

    async def _drop_everything(self) -> None:
        """Answers all waiting callers once this process no longer leads."""
        await self.ready()
        self._committing = self._open = None
        left = [*self.deciding.values(), *self.queue.take(len(self.queue), self.time.clock.monotonic_s())]
        self._fail(left, NotLeading(cell=self.time.cell))
