"""Waiting for many results at once, each an answer or a refusal; and for a task that must end."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from cells.domain.refusals import Refused, Unavailable
from cells.requests import Outcome

# A cancellation may be swallowed, as by `asyncio.wait_for` until Python 3.12, which libraries use.
CANCEL_AGAIN_S = 3.0


async def ended(task: asyncio.Task[None] | None) -> None:
    """Cancels a task, repeatedly if needed, and returns when it has ended; at once if there is none."""
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=CANCEL_AGAIN_S)


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


async def lookups_of(
    lookups: Mapping[str, Coroutine[Any, Any, Refused | None]], wait_s: float
) -> dict[str, Refused | None]:
    """The result of each lookup, raised or not; Unavailable if there was none in time."""
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
