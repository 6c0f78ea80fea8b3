"""Outcomes of commands: for callers with a right to them, and for callers that wait until a saga has ended."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeGuard
from uuid import UUID

from cells.domain.record import replace
from cells.domain.refusals import CommandNotFound, InProgress, NotLeading, Refused, Unavailable
from cells.domain.time.hlc import Stamp
from cells.requests import CommandRequest, CommandState, Outcome
from cells.store.failures import map_store_errors
from cells.store.outcomes import outcome_of
from cells.store.ports import OutcomeRow, Store
from cells.writer.batch import Commit
from cells.writer.writer import Writer

# How long a caller without a deadline waits for other cells' answers.
WAIT_MAX_S = 30.0
# The part of a caller's deadline that is left for the answer to travel.
ANSWER_MARGIN_S = 0.1


class Asker(NamedTuple):
    """A caller of GetCommand: knowing an id gives no right to its outcome."""

    principal: str
    # The user itself, or the users that a delegate may act for.
    users: frozenset[UUID] = frozenset()
    # An auditor, or an operator.
    reads_all: bool = False

    def may_know(self, principal: str, user_id: UUID | None) -> bool:
        """Whether it may read a command that `principal` has sent for `user_id`."""
        return self.reads_all or principal == self.principal or user_id in self.users


@dataclass(slots=True, eq=False)
class _Wait:
    open: set[UUID]
    all_ended: asyncio.Event = field(default_factory=asyncio.Event)

    def ended(self, saga_ids: Iterable[UUID]) -> None:
        self.open.difference_update(saga_ids)
        if not self.open:
            self.all_ended.set()


@dataclass(slots=True, kw_only=True)
class Outcomes:
    store: Store
    writer: Writer
    # By saga.
    _waits: dict[UUID, list[_Wait]] = field(default_factory=dict)

    async def status(self, command_id: UUID, asker: Asker, *, principal: str = "") -> Outcome:
        """The outcome of the command; if several senders used the id, the asker's own, or else the oldest.

        With `principal`: of the command from this sender.

        Raises:
            CommandNotFound: the asker may know of no such command, neither done nor under way.
            NotLeading: nothing was done yet, but another process may be about to do it.
            Unavailable
        """
        here = self.writer.time.cell
        # Searched first: a command that ends in the meantime is in the store.
        under_way = [
            self._in_progress(each)
            for each in self.writer.under_way(command_id)
            if asker.may_know(each.principal, each.user_id)
        ]
        rows = await map_store_errors(self.store.outcomes([command_id]))
        ended = [outcome_of(row, here) for row in sorted(rows, key=_age) if asker.may_know(row.principal, row.user_id)]
        known = [status for status in (*ended, *under_way) if principal in {"", status.principal}]
        if known:
            return min(known, key=lambda status: status.principal != asker.principal)
        if not self.writer.leading:
            raise NotLeading(cell=here)
        raise CommandNotFound(command_id=str(command_id), cell=here)

    def _in_progress(self, request: CommandRequest) -> Outcome:
        return Outcome(
            command_id=request.command_id,
            principal=request.principal,
            state=CommandState.IN_PROGRESS,
            cell=self.writer.time.cell,
            position=self.writer.time.durable_position,
            hlc=Stamp(0, 0),
            replayed=False,
        )

    # --- commands that a saga answers -------------------------------------------------------------------------------

    def follow(self, commit: Commit) -> None:
        """Receives each commit of the cell, in order."""
        for ending in commit.endings:
            for wait in self._waits.get(ending.saga_id, ()):
                wait.ended((ending.saga_id,))

    def time_left_s(self, deadline_s: float | None) -> float:
        """How long a caller may wait, with time left to answer it."""
        if deadline_s is None:
            return WAIT_MAX_S
        return max(deadline_s - self.writer.time.clock.monotonic_s() - ANSWER_MARGIN_S, 0.0)

    async def of(self, answers: Sequence[Outcome | Refused], deadline_s: float | None) -> list[Outcome | Refused]:
        """The answers with the ends of commands in progress: InProgress if there was none by the deadline."""
        begun = {answer.saga_id: answer.command_id for answer in answers if _is_begun(answer) and answer.saga_id}
        if not any(map(_is_begun, answers)):
            return list(answers)
        try:
            ended = await map_store_errors(self._ended_in_time(begun, deadline_s))
        except Unavailable as problem:
            return [problem if _is_begun(answer) else answer for answer in answers]
        return [_end(answer, ended.get(answer.saga_id)) if _is_begun(answer) else answer for answer in answers]

    async def of_one(self, begun: Outcome, deadline_s: float | None) -> Outcome:
        """Raises the refusal that it ended with, or InProgress."""
        (answer,) = await self.of([begun], deadline_s)
        if isinstance(answer, Refused):
            raise answer
        return answer

    async def _ended_in_time(self, begun: Mapping[UUID, UUID], deadline_s: float | None) -> dict[UUID | None, Outcome]:
        """The ends of the commands in `begun` by saga; `begun`: saga -> command id."""
        wait = _Wait({*begun})
        for saga_id in begun:
            self._waits.setdefault(saga_id, []).append(wait)
        try:
            # They may have ended between the commit and now.
            ended = await self._ended(begun)
            wait.ended(filter(None, ended))
            if not wait.all_ended.is_set():
                async with asyncio.timeout(self.time_left_s(deadline_s)):
                    await wait.all_ended.wait()
        except TimeoutError:
            pass
        finally:
            self._forget(wait, begun)
        left = {saga_id: command_id for saga_id, command_id in begun.items() if saga_id not in ended}
        return ended | await self._ended(left) if left else ended

    async def _ended(self, begun: Mapping[UUID, UUID]) -> dict[UUID | None, Outcome]:
        rows = [row for row in await self.store.outcomes([*begun.values()]) if row.saga_id in begun]
        statuses = {row.saga_id: outcome_of(row, self.writer.time.cell) for row in rows}
        return {key: status for key, status in statuses.items() if status.state is not CommandState.IN_PROGRESS}

    def _forget(self, wait: _Wait, saga_ids: Iterable[UUID]) -> None:
        for saga_id in saga_ids:
            waits = self._waits[saga_id]
            waits.remove(wait)
            if not waits:
                del self._waits[saga_id]


def _age(row: OutcomeRow) -> tuple[float, str]:
    return row.recorded_at.timestamp(), row.principal


def _is_begun(answer: Outcome | Refused) -> TypeGuard[Outcome]:
    return isinstance(answer, Outcome) and answer.state is CommandState.IN_PROGRESS


def _end(begun: Outcome, ended: Outcome | None) -> Outcome | Refused:
    if ended is None:
        return InProgress(command_id=str(begun.command_id))
    return ended.refusal or replace(ended, replayed=begun.replayed)


async def answers_of(waiters: Sequence[asyncio.Future[Outcome]]) -> list[Outcome | Refused]:
    """The answers in the order of `waiters`. If the caller is cancelled, all of them are cancelled."""
    answers: list[Outcome | Refused] = []
    try:
        for waiter in waiters:
            try:
                answers.append(await waiter)
            except Refused as refused:
                answers.append(refused)
    finally:
        for waiter in waiters[len(answers) :]:
            # An answer that arrived and is no longer wanted is no error.
            if not waiter.cancel() and not waiter.cancelled():
                waiter.exception()
    return answers
