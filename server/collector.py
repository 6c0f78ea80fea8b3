"""Combines requests made at the same moment into one call, without delay."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


@dataclass(slots=True, kw_only=True)
class Collector(Generic[Asked, Answer]):
    """Nothing waits for further requests: a lone one is sent alone, within the same turn of the event loop.

    `send` returns an answer or an error for each, in order.
    """

    send: Callable[[Sequence[Asked]], Awaitable[Sequence[Answer | Exception]]]
    items_max: int
    _waiting: list[tuple[Asked, asyncio.Future[Answer]]] = field(default_factory=list)
    _sending: set[asyncio.Task[None]] = field(default_factory=set)

    async def ask(self, asked: Asked) -> Answer:
        """Raises the error that `send` returns or raises. A caller that stops waiting does not cancel its request."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        if not self._waiting:
            # Other tasks that are ready now still add their requests before this runs.
            loop.call_soon(self._send_waiting)
        self._waiting.append((asked, answer))
        return await answer

    def close(self) -> None:
        for task in self._sending:
            task.cancel()

    def _send_waiting(self) -> None:
        waiting = [(asked, answer) for asked, answer in self._waiting if not answer.done()]
        self._waiting.clear()
        for first in range(0, len(waiting), self.items_max):
            task = asyncio.create_task(self._send(waiting[first : first + self.items_max]))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

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
