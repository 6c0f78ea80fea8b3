"""Executes one leg of a saga once, in the same way for every engine.

Only a definite refusal or the deadline starts compensation. Any other failure of a call is an unknown outcome: the same
leg is retried under the same id.
"""

import asyncio
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

import structlog

from cells.domain import commands
from cells.domain.moves.commands import ArriveUser
from cells.domain.refusals import CommandIdReused, NotLeading, Refused, WrongCell
from cells.domain.sagas.definition import LegSpec
from cells.domain.sagas.leg import LegMark
from cells.domain.sagas.saga import Saga, SagaState
from cells.domain.sagas.saga_events import MoveFacts
from cells.domain.sagas.saga_rules import DEADLINE_EXCEEDED, action_of, leg_id_of, on_behalf_of
from cells.domain.values import Direction
from cells.failpoints import NoFailpoints
from cells.moves.history_exporter import HistoryExporter
from cells.requests import CommandRequest, Outcome, request_of_cell
from cells.sagas.circuit_breaker import CircuitBreaker, PeerSilent
from cells.sagas.executions import SagaExecution, SagaExecutions
from cells.store.ports import Clock, Ids, LegCall, Peers, PeerUnknown, StoreError

log = structlog.get_logger()

ATTEMPT_TIMEOUT_S = 5.0
BACKOFF_FIRST_S = 0.2
# The bound is short, so that a leg is retried soon after a long fault ends. An unreachable cell costs nothing by that
# (circuit_breaker.py).
BACKOFF_MAX_S = 2.0
BACKOFF_FACTOR = 2.0
BEST_EFFORT_ATTEMPTS_MAX = 3
CALLS_MAX = 256
_UNTRACED = nullcontext()
Traced = Callable[[UUID, str, str], AbstractContextManager[object]]


def untraced(*_: object) -> AbstractContextManager[object]:
    return _UNTRACED


class Attempt(StrEnum):
    """The result of executing a leg once."""

    DONE = "done"
    # A definite refusal, which started compensation.
    REFUSED = "refused"
    # Any other failure: retry.
    FAILED = "failed"


@dataclass(slots=True, kw_only=True)
class Steps:
    """`execute` submits a command to this cell's own writer."""

    cell: str
    peers: Peers
    clock: Clock
    ids: Ids
    execute: Callable[[CommandRequest], Awaitable[Outcome]]
    random: random.Random
    # Copies the data of users who move.
    history_exporter: HistoryExporter | None = None
    failpoints: NoFailpoints = field(default_factory=NoFailpoints)
    # How long a leg waits here for its turn at a silent peer, and how long it pauses if it got none.
    patience_s: float = math.inf
    silence_pause_s: float = 0.0
    # Entered around each attempt, by saga, leg and direction: for traces.
    traced: Traced = untraced
    # The results of all attempts of this process.
    tally: Counter[Attempt] = field(default_factory=Counter)
    # Legs in this cell.
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CALLS_MAX))
    breakers: dict[str, CircuitBreaker] = field(default_factory=dict)
    # The sagas whose legs these are, as the engine counts them.
    executions: SagaExecutions = field(default_factory=SagaExecutions)

    async def execute_leg(self, run: SagaExecution) -> float:
        """Executes the current leg once. Returns the pause before the next attempt, in seconds.

        The pause is 0 if the leg has moved, or the deadline has passed meanwhile.

        You may cancel it while the run is not `under_way`: then nothing has happened.

        Raises:
            NotLeading: this process may no longer drive the saga.
            LookupError: a bug: the saga has no leg left, but has not ended.
        """
        spec = run.saga.current
        if spec is None:
            message = f"saga {run.saga_id} has neither ended nor a leg left"
            raise LookupError(message)
        before, too_late = run.saga, self._too_late(run.saga)
        run.next_attempt_ms = 0
        run.sample(self.clock.monotonic_s())
        try:
            if too_late:
                await self._progress(run, _failure(run, DEADLINE_EXCEEDED, "", {}))
            else:
                await self._attempt(run, spec)
            if run.saga is before and self._given_up(run, spec):
                await self._progress(run, commands.SkipLeg(leg_id=run.leg_id, failure_reason=run.last_error))
        finally:
            run.under_way, run.waits_for = False, ""
        if run.saga is before:
            pause_s = 0.0 if self._too_late(before) and not too_late else self._pause_s(run)
            run.next_attempt_ms = self.clock.wall_ms() + int(pause_s * 1_000) if pause_s else 0
            return pause_s
        return 0.0

    def _too_late(self, saga: Saga) -> bool:
        return saga.state is SagaState.RUNNING and self._left_s(saga) <= 0

    def _left_s(self, saga: Saga) -> float:
        """Time to the deadline while it matters: before the pivot, or for a leg that may be given up."""
        spec = saga.current
        if saga.deadline_ms is None or not (saga.state is SagaState.RUNNING or (spec and spec.best_effort)):
            return math.inf
        return (saga.deadline_ms - self.clock.wall_ms()) / 1_000

    async def _attempt(self, run: SagaExecution, spec: LegSpec) -> None:
        before = run.saga
        try:
            await self._take(run, spec)
            self.tally[Attempt.DONE] += 1
        except NotLeading:
            raise
        except WrongCell as error:
            await self._sent_after(run, before, error)
        except Refused as error:
            if spec.moot is not None and isinstance(error, spec.moot):
                await self._progress(run, commands.SkipLeg(leg_id=run.leg_id, failure_reason=error.reason))
            elif not (_is_no(error) and await self._start_compensation(run, error)):
                self._note(run, f"{error.reason}: {error.message}", answered=True)
            else:
                self.tally[Attempt.REFUSED] += 1
        except PeerSilent as error:
            run.last_error = run.last_error or f"{run.cell}: {error}"
        except PeerUnknown as error:
            self._note(run, str(error), answered=error.answered)
        except StoreError as error:
            self._note(run, str(error), answered=True)
        except Exception as error:
            # A bug, which the engine logs. Record it here for operators who inspect this saga.
            run.attempts += 1
            run.last_error = f"{type(error).__name__}: {error}"
            raise

    def _given_up(self, run: SagaExecution, spec: LegSpec) -> bool:
        """A best-effort leg is given up soon if its cell answers with failures; an unreachable cell is waited for."""
        late = self._left_s(run.saga) <= 0
        return spec.best_effort and (run.answers >= BEST_EFFORT_ATTEMPTS_MAX or late)

    async def _take(self, run: SagaExecution, spec: LegSpec) -> None:
        direction = run.saga.direction
        await self.failpoints.hold(spec.leg, direction)
        with self.traced(run.saga_id, spec.leg, direction.value):
            await self._taken(run, spec, direction)

    async def _taken(self, run: SagaExecution, spec: LegSpec, direction: Direction) -> None:
        saga, cell, leg_id = run.saga, run.cell, run.leg_id
        self.failpoints.hit("before-send", spec.leg, direction)
        if cell == self.cell:
            async with self._slots:
                run.under_way = True
                if await self._pack(run, direction):
                    await self._take_here(run, direction)
            return
        run.waits_for = cell
        async with self._breaker(cell).call(min(self._left_s(saga), self.patience_s)):
            run.under_way, run.waits_for = True, ""
            mark = await self._ask(cell, run, direction)
            if not spec.may_answer(direction, mark.result):
                # Taken for the pivot, which is found done, it would turn a saga that has undone its legs forward.
                raise PeerUnknown(f"{cell} answers {mark.result} to the {direction} of {spec.leg}", answered=True)
        self.failpoints.hit("before-record", spec.leg, direction)
        record = commands.RecordLeg(leg_id=leg_id, direction=direction, mark=mark)
        async with self._slots:
            await self._progress(run, record, causation_id=mark.event_id)

    def ask_now(self, run: SagaExecution) -> None:
        """Probes the cell of the current leg at once if it is silent."""
        if run.saga.current is not None:
            self._breaker(run.cell).ask_now()

    def _breaker(self, cell: str) -> CircuitBreaker:
        return self.breakers.setdefault(cell, CircuitBreaker(random=self.random))

    async def _take_here(self, run: SagaExecution, direction: Direction) -> None:
        """Executes a leg in this cell: its effect and the saga's progress are one commit."""
        leg_id, action = run.leg_id, action_of(run.saga, run.saga_id)
        command: commands.Command
        if direction is Direction.ACTION:
            command = commands.ApplyLeg(leg_id=leg_id, action=action, orchestrator=self.cell)
        else:
            command = commands.CompensateLeg(leg_id=leg_id, action=action, orchestrator=self.cell)
        await self.execute(self._request(command, run, leg_id.command_id(direction), run.saga.last_event_id))

    async def _pack(self, run: SagaExecution, direction: Direction) -> bool:
        """Copies a moving user's data before the departure. False: one attempt could not copy all of it."""
        saga, saga_id = run.saga, run.saga_id
        if not isinstance(saga.facts, MoveFacts) or self.history_exporter is None:
            return True
        match run.leg_id.leg, direction:
            case "close", Direction.ACTION:
                try:
                    return await self.history_exporter.copy(saga_id, saga.facts)
                finally:
                    run.copied = self.history_exporter.progress(saga_id)
            case "depart", Direction.ACTION:
                await self.history_exporter.before_departure(saga_id, saga.facts)
            case "leave", _:
                self.history_exporter.forget(saga_id)
            case "announce", Direction.COMPENSATION:
                await self.history_exporter.call_off(saga_id, saga.facts)
            case _:
                pass
        return True

    async def _contents(self, run: SagaExecution, direction: Direction) -> commands.LegAction:
        action, facts = action_of(run.saga, run.saga_id), run.saga.facts
        if not isinstance(action, ArriveUser) or not isinstance(facts, MoveFacts) or self.history_exporter is None:
            return action
        arrival = await self.history_exporter.with_beginning(run.saga_id, facts, action)
        if direction is Direction.COMPENSATION:
            return arrival
        return await self.history_exporter.with_contents(run.saga_id, facts, arrival)

    async def _ask(self, cell: str, run: SagaExecution, direction: Direction) -> LegMark:
        saga = run.saga
        call = LegCall(
            leg_id=run.leg_id,
            action=await self._contents(run, direction),
            orchestrator=self.cell,
            causation_id=saga.last_event_id or run.saga_id,
            user_id=on_behalf_of(saga),
        )
        return await self.peers.request_leg(cell, call, direction, timeout_s=ATTEMPT_TIMEOUT_S)

    async def _sent_after(self, run: SagaExecution, before: Saga, error: WrongCell) -> None:
        """Records the new home if the leg's user has moved, so that the next attempt calls it."""
        user_id = user_in_refusal(error)
        if user_id is not None:
            news = commands.MoveParty(
                leg_id=leg_id_of(before, run.saga_id),
                direction=before.direction,
                user_id=user_id,
                cell=str(error.facts["cell"]),
                epoch=int(error.facts.get("epoch", 0)),
            )
            await self._progress(run, news)
        if run.saga is before:
            self._note(run, f"{error.reason}: {error.message}", answered=True)

    async def _start_compensation(self, run: SagaExecution, error: Refused) -> bool:
        """Starts compensation for a definite refusal before the pivot. All other legs are only retried."""
        if run.saga.state is not SagaState.RUNNING or run.saga.deadline_ms is None:
            return False
        facts = {name: str(value) for name, value in error.facts.items()}
        await self._progress(run, _failure(run, error.reason, error.message, facts, covers_leg=not error.stable))
        return True

    async def _progress(
        self, run: SagaExecution, command: commands.SagaProgress, *, causation_id: UUID | None = None
    ) -> None:
        cause = causation_id or run.saga.last_event_id
        run.under_way = True
        try:
            await self.execute(self._request(command, run, self.ids.event_id(), cause))
        except NotLeading:
            raise
        except Refused as error:
            # A retried leg repeats its first answer, so this is retried too.
            run.last_error = error.message

    def _request(
        self, command: commands.Command, run: SagaExecution, command_id: UUID, causation_id: UUID | None
    ) -> CommandRequest:
        return request_of_cell(
            self.cell,
            command,
            command_id,
            correlation_id=run.saga_id,
            causation_id=causation_id,
            user_id=on_behalf_of(run.saga),
        )

    def _note(self, run: SagaExecution, error: str, *, answered: bool) -> None:
        run.attempts += 1
        run.answers += answered
        run.last_error = error
        self.tally[Attempt.FAILED] += 1
        level = log.error if run.is_stuck(self.clock.monotonic_s()) else log.info
        leg = run.leg_id.leg
        level("saga_attempt_failed", saga_id=str(run.saga_id), leg=leg, attempts=run.attempts, problem=error)

    def _pause_s(self, run: SagaExecution) -> float:
        """Exponential backoff with jitter, at most up to the saga's deadline."""
        left_s = self._left_s(run.saga)
        if left_s > 0 and self._breaker(run.cell).silent:
            # The leg waits for its turn to probe, and proceeds as soon as the peer answers any call.
            return min(self.silence_pause_s, left_s + 0.001)
        ceiling = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * BACKOFF_FACTOR ** min(run.attempts, 20))
        pause_s = ceiling * self.random.uniform(0.5, 1.0)
        return min(pause_s, left_s + 0.001) if left_s > 0 else pause_s


def _is_no(error: Refused) -> bool:
    """Whether it is a definite refusal of the leg. A refusal because the id is taken says nothing about the leg."""
    return error.final and not isinstance(error, CommandIdReused)


def user_in_refusal(error: WrongCell) -> UUID | None:
    """The user who lives elsewhere; None if the refusal is about something other than a user."""
    kind, _, name = str(error.facts.get("resource", "")).partition(" ")
    with suppress(ValueError):
        return UUID(name) if kind == "user" else None
    return None


def _failure(
    run: SagaExecution, reason: str, message: str, facts: dict[str, str], *, covers_leg: bool = True
) -> commands.FailSaga:
    return commands.FailSaga(
        leg_id=run.leg_id,
        failure_reason=reason,
        failure_message=message,
        failure_facts=facts,
        covers_leg=covers_leg,
    )
