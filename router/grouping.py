"""Batches small database calls: those that arrive while one is under way share the next."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from router.refusals import DirectoryBusy

GROUP_MAX = 256
WAITING_MAX = 10_000

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Grouping(Generic[Item, Answer]):
    """`together` answers a group item by item, in order; if it raises, every caller of the group gets the error.

    There is no artificial delay: a lone call goes at once. A caller that is cancelled stops waiting; its item is done.
    """

    def __init__(self, together: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]]) -> None:
        self._together = together
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Answer:
        """Raises DirectoryBusy if too many calls wait."""
        if len(self._waiting) >= WAITING_MAX:
            raise DirectoryBusy(waiting=len(self._waiting))
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await answer

    async def _run(self) -> None:
        try:
            while self._waiting:
                group = [self._waiting.popleft() for _ in range(min(len(self._waiting), GROUP_MAX))]
                await self._answer(group)
        finally:
            self._running = None

    async def _answer(self, group: list[tuple[Item, asyncio.Future[Answer]]]) -> None:
        waiting = [answer for _, answer in group]
        try:
            answers = await self._together([item for item, _ in group])
            told = list(zip(waiting, answers, strict=True))
        except Exception as problem:  # noqa: BLE001 - each caller is told
            for answer in waiting:
                if not answer.done():
                    answer.set_exception(problem)
            return
        for answer, value in told:
            if not answer.done():
                answer.set_result(value)
