"""Combines requests into calls, without delay: those made at the same moment, or while no further call may begin."""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

WAITING_MAX = 10_000

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


@dataclass(slots=True, kw_only=True)
class Coalescer(Generic[Asked, Answer]):
    """No call waits for further requests: a lone request is sent alone, within the same turn of the event loop.

    `send` returns an answer or an error for each, in order. At most `calls_max` calls are under way at once; requests
    made meanwhile share the next one. `busy` makes the error of a request that finds WAITING_MAX others waiting.
    """

    send: Callable[[Sequence[Asked]], Awaitable[Sequence[Answer | Exception]]]
    busy: Callable[[int], Exception]
    items_max: int
    calls_max: float = math.inf
    _waiting: deque[tuple[Asked, asyncio.Future[Answer]]] = field(default_factory=deque)
    _sending: set[asyncio.Task[None]] = field(default_factory=set)

    async def ask(self, asked: Asked) -> Answer:
        """Raises the error that `send` returns or raises, or `busy`. A caller that stops waiting cancels no call."""
        if len(self._waiting) >= WAITING_MAX:
            raise self.busy(len(self._waiting))
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        if not self._waiting:
            # Other tasks that are ready now still add their requests before this runs.
            loop.call_soon(self._send_waiting)
        self._waiting.append((asked, answer))
        return await answer

    def close(self) -> None:
        for _, answer in self._waiting:
            answer.cancel()
        for task in self._sending:
            task.cancel()

    def _send_waiting(self) -> None:
        while self._waiting and len(self._sending) < self.calls_max:
            group = [self._waiting.popleft() for _ in range(min(len(self._waiting), self.items_max))]
            if wanted := [(asked, answer) for asked, answer in group if not answer.done()]:
                task = asyncio.create_task(self._send(wanted))
                self._sending.add(task)
                task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        self._send_waiting()

    async def _send(self, items: Sequence[tuple[Asked, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self.send([asked for asked, _ in items])
            for (_, waiter), answer in zip(items, answers, strict=True):
                _tell(waiter, answer)
        except Exception as error:  # noqa: BLE001 - a bug is told to all that wait, as it would be to one
            for _, waiter in items:
                _tell(waiter, error)
        finally:
            for _, waiter in items:
                waiter.cancel()


def _tell(waiter: asyncio.Future[Answer], answer: Answer | Exception) -> None:
    if waiter.done():
        return
    if isinstance(answer, Exception):
        waiter.set_exception(answer)
    else:
        waiter.set_result(answer)
