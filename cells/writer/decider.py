"""Decides one command after the other against the cached states, into the rows of a batch."""

import math
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from cells.buckets import Buckets
from cells.domain.decide import decide, needs
from cells.domain.decision import Context, Decision, LedgerPolicy
from cells.domain.record import made
from cells.domain.refusals import Refused, TooManyRefusals
from cells.domain.values import Ref
from cells.requests import CommandRequest, CommandState, Outcome
from cells.store.outcomes import (
    begun_elsewhere,
    by_key,
    decided_outcome,
    ended_outcome,
    refused_outcome,
    row_for,
    stored_answer,
)
from cells.store.ports import Ids, OutcomeRow, Store
from cells.time.celltime import CellTime
from cells.writer.batch import Answer, DecidedBatch
from cells.writer.cache import NotLoaded, StateCache
from cells.writer.queue import Pending

log = structlog.get_logger()

# Stored refusals per second for one user: each occupies the database for a month, and costs its sender nothing.
REFUSALS_PER_S = 1.0
REFUSALS_AT_ONCE = 1_000


@dataclass(slots=True, kw_only=True)
class Decider:
    """Waits only for loads; decides in memory."""

    store: Store
    ids: Ids
    time: CellTime
    policy: LedgerPolicy
    cache: StateCache
    refusals: Buckets = field(
        default_factory=lambda: Buckets(per_s=REFUSALS_PER_S, holds_s=REFUSALS_AT_ONCE / REFUSALS_PER_S)
    )

    async def answers_before(self, pendings: Iterable[Pending]) -> dict[Pending, Outcome | Refused]:
        """The stored answers of commands that were executed before."""
        stored = [pending for pending in pendings if pending.request.fingerprint]
        if not stored:
            return {}
        known = by_key(await self.store.outcomes([pending.request.command_id for pending in stored]))
        if not known:
            return {}
        rows = {pending: row_for(pending.request.key, pending.request.user_id, known) for pending in stored}
        cell = self.time.cell
        return {pending: stored_answer(row, pending.request, cell) for pending, row in rows.items() if row is not None}

    async def _load_for(self, pendings: Iterable[Pending]) -> int:
        """Loads the state that the commands need and the cache lacks, one query per kind, until nothing is missing.

        Returns the number of pieces that were looked up.
        """
        loaded = 0
        while True:
            # A command with all its state loaded needs no more later: only newly loaded state points at more.
            lacking = [(pending, missing) for pending in pendings if (missing := self._missing(pending))]
            if not lacking:
                return loaded
            refs = sorted({ref for _, missing in lacking for ref in missing})
            loaded += len(refs)
            self.cache.add_loaded(refs, await self.store.load(refs))
            pendings = [pending for pending, _ in lacking]

    def _missing(self, pending: Pending) -> list[Ref]:
        wanted = needs(pending.request.command, self.cache, self.time.cell)
        return [ref for ref in wanted if not self.cache.has(ref)]

    async def decide_first(self, batch: DecidedBatch, undecided: deque[Pending], count: int) -> None:
        """Decides the first `count` commands of `undecided` into the batch, and loads missing state.

        It then loads for all waiting commands, so that it seldom has to do so twice per batch.
        """
        for _ in range(min(count, len(undecided))):
            pending = undecided[0]
            try:
                answer = self._decide(batch, pending.request)
            except NotLoaded:
                answer = await self._load_and_decide(batch, undecided)
            undecided.popleft()
            batch.answers.append((pending, answer))

    async def _load_and_decide(self, batch: DecidedBatch, undecided: deque[Pending]) -> Answer:
        request = undecided[0].request
        while await self._load_for(undecided):
            with suppress(NotLoaded):
                return self._decide(batch, request)
        log.error("needs_incomplete", command=type(request.command).__name__)
        return LookupError(f"needs() does not name all that {type(request.command).__name__} looks at")

    def _decide(self, batch: DecidedBatch, request: CommandRequest) -> Answer:
        """Raises NotLoaded; nothing has happened then."""
        if batch.brought_ahead or batch.rows.brought_outcomes:
            brought = by_key([*batch.brought_ahead, *batch.rows.brought_outcomes])
            row = row_for(request.key, request.user_id, brought) if request.fingerprint else None
            if row is not None:
                return stored_answer(row, request, self.time.cell)
        context = Context(
            cell=self.time.cell,
            now_ms=batch.now_ms(),
            command_id=request.command_id,
            principal=request.principal,
            new_event_id=self.ids.event_id,
            policy=self.policy,
        )
        try:
            if self.cache.held:
                # No answer for now is better than one from a wrong state.
                self.cache.require_sound(needs(request.command, self.cache, self.time.cell))
            decision = decide(request.command, self.cache, context)
            if decision.replaced:
                batch.require_current(decision.replaced)
            batch.record(request, decision.uncommitted)
            if decision.replaced or decision.corrections:
                batch.replace(decision)
        except Refused as error:
            if error.stored and not error.stable and request.fingerprint:
                return self._refused(batch, request, error, context.now_ms)
            return error
        except NotLoaded:
            raise
        except Exception as error:
            log.exception("command_failed", command=type(request.command).__name__)
            return error
        return self._accepted(batch, request, decision)

    def _refused(self, batch: DecidedBatch, request: CommandRequest, error: Refused, now_ms: int) -> Refused:
        """Stores the refusal; if there is no room for it, the command is refused without finality."""
        whose = str(request.user_id or request.principal)
        wait_s = self.refusals.take(whose, now_ms / 1_000)
        if wait_s:
            wait_ms = math.ceil(wait_s * 1_000)
            return TooManyRefusals(refusal=error.reason, problem=error.message, whose=whose, wait_ms=wait_ms)
        batch.rows.outcomes.append(self._row(batch, request, refused_outcome(error)))
        return error

    def _accepted(self, batch: DecidedBatch, request: CommandRequest, decision: Decision) -> Outcome:
        if request.fingerprint:
            outcome, in_stream = decided_outcome(decision), _in_own_stream(request, decision)
            row = self._row(batch, request, outcome, in_stream=in_stream, saga_id=decision.awaits_saga)
            batch.rows.outcomes.append(row)
        for ending in decision.endings:
            row = self._row(batch, request, ended_outcome(ending), saga_id=ending.saga_id)
            batch.rows.ended_outcomes.append(row._replace(command_id=ending.command_id, fingerprint=b""))
        batch.endings.extend(decision.endings)
        answer = Outcome(
            command_id=request.command_id,
            principal=request.principal,
            result=decision.result,
            cell=self.time.cell,
            position=batch.position,
            hlc=self.time.hlc.last,
            replayed=False,
            state=CommandState.ACCEPTED if decision.awaits_saga is None else CommandState.IN_PROGRESS,
            saga_id=decision.awaits_saga,
            due_ms=decision.due_ms,
        )
        brought = begun_elsewhere(request.command, answer)
        if brought is not None:
            batch.rows.brought_outcomes.append(brought)
        return answer

    def _row(
        self,
        batch: DecidedBatch,
        request: CommandRequest,
        outcome: str,
        *,
        in_stream: bool = False,
        saga_id: UUID | None = None,
    ) -> OutcomeRow:
        columns = (
            request.command_id,
            request.fingerprint,
            outcome,
            batch.position,
            *self.time.hlc.last,
            batch.recorded_at,
            request.user_id,
            request.principal,
            in_stream,
            None,
            saga_id,
        )
        return made(OutcomeRow, columns)


def _in_own_stream(request: CommandRequest, decision: Decision) -> bool:
    """Whether the stream of the user's account names the command: outcomes of others move with the user separately."""
    user = request.user_id
    return user is None or user in [event_draft.aggregate.id for event_draft in decision.uncommitted]
