"""Commands that a saga answers: waiting for the end of one, or of many at once."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard
from uuid import UUID

from cells.domain.record import replace
from cells.domain.refusals import InProgress, Refused, Unavailable
from cells.requests import CommandState, CommandStatus, Outcome
from cells.store.outcomes import status_of
from cells.store.ports import Store, StoreError
from cells.time.celltime import CellTime
from cells.writer.batch import Commit

# How long a caller without a deadline waits for other cells' answers.
WAIT_MAX_S = 30.0
# The part of a caller's deadline that is left for the answer to travel.
ANSWER_MARGIN_S = 0.1


@dataclass(slots=True, eq=False)
class _Wait:
    open: set[UUID]
    all_ended: asyncio.Event = field(default_factory=asyncio.Event)

    def ended(self, saga_ids: Iterable[UUID]) -> None:
        self.open.difference_update(saga_ids)
        if not self.open:
            self.all_ended.set()


@dataclass(slots=True, kw_only=True)
class PendingOutcomes:
    store: Store
    time: CellTime
    # By saga.
    _waits: dict[UUID, list[_Wait]] = field(default_factory=dict)

    def follow(self, commit: Commit) -> None:
        """Receives each commit of the cell, in order."""
        for ending in commit.endings:
            for wait in self._waits.get(ending.saga_id, ()):
                wait.ended((ending.saga_id,))

    def time_left_s(self, deadline_s: float | None) -> float:
        """How long a caller may wait, with time left to answer it."""
        if deadline_s is None:
            return WAIT_MAX_S
        return max(deadline_s - self.time.clock.monotonic_s() - ANSWER_MARGIN_S, 0.0)

    async def of(self, answers: Sequence[Outcome | Refused], deadline_s: float | None) -> list[Outcome | Refused]:
        """The answers with the ends of commands in progress: InProgress if there was none by the deadline."""
        begun = {answer.saga_id: answer.command_id for answer in answers if _is_begun(answer) and answer.saga_id}
        if not any(map(_is_begun, answers)):
            return list(answers)
        try:
            ended = await self._ended_in_time(begun, deadline_s)
        except StoreError as error:
            problem = Unavailable(problem=str(error))
            return [problem if _is_begun(answer) else answer for answer in answers]
        return [_end(answer, ended.get(answer.saga_id)) if _is_begun(answer) else answer for answer in answers]

    async def of_one(self, begun: Outcome, deadline_s: float | None) -> Outcome:
        """Raises the refusal that it ended with, or InProgress."""
        (answer,) = await self.of([begun], deadline_s)
        if isinstance(answer, Refused):
            raise answer
        return answer

    async def _ended_in_time(
        self, begun: Mapping[UUID, UUID], deadline_s: float | None
    ) -> dict[UUID | None, CommandStatus]:
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

    async def _ended(self, begun: Mapping[UUID, UUID]) -> dict[UUID | None, CommandStatus]:
        rows = [row for row in await self.store.outcomes([*begun.values()]) if row.saga_id in begun]
        statuses = {row.saga_id: status_of(row, self.time.cell) for row in rows}
        return {key: status for key, status in statuses.items() if status.state is not CommandState.IN_PROGRESS}

    def _forget(self, wait: _Wait, saga_ids: Iterable[UUID]) -> None:
        for saga_id in saga_ids:
            waits = self._waits[saga_id]
            waits.remove(wait)
            if not waits:
                del self._waits[saga_id]


def _is_begun(answer: Outcome | Refused) -> TypeGuard[Outcome]:
    return isinstance(answer, Outcome) and answer.state is CommandState.IN_PROGRESS


def _end(begun: Outcome, status: CommandStatus | None) -> Outcome | Refused:
    if status is None:
        return InProgress(command_id=str(begun.command_id))
    if status.refusal is not None:
        return status.refusal
    return replace(begun, result=status.result, position=status.position, hlc=status.hlc, state=CommandState.ACCEPTED)
