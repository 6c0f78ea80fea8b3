"""From a call's headers to its message: nobody waits here for long, and nobody who has not said who it is.

To gRPC every method is one that takes a stream of requests, since for those alone it runs our code when the headers
have come; for others it waits for the message first, as long as the caller likes. Callers notice nothing: which kind a
method is does not travel.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from time import monotonic
from typing import Any, TypeAlias

import grpc.aio
from google.protobuf.message import DecodeError

from cells.domain.refusals import RequestUnreadable
from server.shell.budget import Budget
from server.shell.denials import MessageLate, MessageMissing, TooManyCalls, TooManyStreams
from server.shell.principal import Principal

# Between a call's headers and its message. A megabyte over a slow line takes less.
MESSAGE_S = 5.0
# Calls under way at once, below what gRPC itself takes (hosting.CALLS_MAX).
CALLS_SHARED = 8_000
CALLS_RESERVED = 1_000
CALLS_PERSON = 256
STREAMS_SHARED = 1_000
STREAMS_PERSON = 10

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]
Parse: TypeAlias = Callable[[bytes], object]

# grpc runs interceptors and handler of a call in one task: what came with the headers, and whom it has proven.
METADATA: ContextVar[Metadata] = ContextVar("metadata", default=())
CALLER: ContextVar[Principal] = ContextVar("caller")


def calls_budget() -> Budget:
    return Budget(
        lambda count, principal: TooManyCalls(open_count=count, principal=principal),
        shared=CALLS_SHARED,
        person=CALLS_PERSON,
        reserved=CALLS_RESERVED,
    )


def streams_budget(shared: int = STREAMS_SHARED) -> Budget:
    """A quarter more are kept for operators, cells and routers."""
    return Budget(
        lambda count, principal: TooManyStreams(open_count=count, principal=principal),
        shared=shared,
        person=STREAMS_PERSON,
        reserved=-(-shared // 4),
    )


def as_it_is(data: bytes) -> bytes:
    """For requests that are passed on."""
    return data


class Messages:
    """Waits for the messages of calls whose headers have come. One timer serves all: most wait for no time at all."""

    def __init__(self) -> None:
        # Call -> when its headers came, the oldest first.
        self._since_s: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def one_of(self, context: Context, parse: Parse, method: str) -> Any:  # noqa: ANN401 - of any method
        """The one message of a call, parsed. Raises MessageLate, MessageMissing, RequestUnreadable."""
        data = await self._read(context, method)
        if data is grpc.aio.EOF:
            raise MessageMissing(method=method)
        try:
            return parse(data)
        except DecodeError:
            raise RequestUnreadable(method=method) from None

    async def _read(self, context: Context, method: str) -> Any:  # noqa: ANN401 - bytes, or a mark of grpc's
        task = running_task()
        self._since_s[task] = monotonic()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(MESSAGE_S, self._sweep)
        try:
            return await context.read()
        except asyncio.CancelledError:
            if task not in self._late:
                raise
            task.uncancel()
            raise MessageLate(method=method, wait_s=f"{MESSAGE_S:g}") from None
        finally:
            del self._since_s[task]
            self._late.discard(task)

    def _sweep(self) -> None:
        """Ends the waiting of calls that have waited for MESSAGE_S."""
        now_s, self._timer = monotonic(), None
        for task, since_s in self._since_s.items():
            left_s = since_s + MESSAGE_S - now_s
            if left_s > 0:
                self._timer = asyncio.get_running_loop().call_later(left_s, self._sweep)
                return
            if task not in self._late:
                self._late.add(task)
                task.cancel()


def running_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("calls are handled in tasks")
    return task
