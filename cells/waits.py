"""Waiting for many at once, each with an answer or a refusal of its own; and for a task that is to end."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from cells.domain.refusals import Refused, Unavailable
from cells.requests import Outcome

# A cancellation may be swallowed: `asyncio.wait_for` does so until Python 3.12, and libraries wait by it.
CANCEL_AGAIN_S = 3.0


async def ended(task: asyncio.Task[None] | None) -> None:
    """Cancels a task, more than once if need be, and returns when it has ended; at once where there is none."""
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=CANCEL_AGAIN_S)


async def answers_of(waiters: Sequence[asyncio.Future[Outcome]]) -> list[Outcome | Refused]:
    """The answers in the order of `waiters`. A caller that goes away gives all of them up."""
    answers: list[Outcome | Refused] = []
    try:
        for waiter in waiters:
            try:
                answers.append(await waiter)
            except Refused as refused:
                answers.append(refused)
    finally:
        for waiter in waiters[len(answers) :]:
            # What came and is not asked for any more is nobody's error.
            if not waiter.cancel() and not waiter.cancelled():
                waiter.exception()
    return answers


async def lookups_of(
    lookups: Mapping[str, Coroutine[Any, Any, Refused | None]], wait_s: float
) -> dict[str, Refused | None]:
    """What each lookup says, raised or not; Unavailable where it has said nothing in time."""
    if not lookups:
        return {}
    tasks = {key: asyncio.ensure_future(lookup) for key, lookup in lookups.items()}
    try:
        await asyncio.wait(tasks.values(), timeout=wait_s)
        return {key: _found(task) for key, task in tasks.items()}
    finally:
        for task in tasks.values():
            task.cancel()


def _found(task: asyncio.Future[Refused | None]) -> Refused | None:
    if not task.done():
        return Unavailable(problem="the router has not answered in time")
    try:
        return task.result()
    except Refused as refused:
        return refused
