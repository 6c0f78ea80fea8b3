"""From a call's headers to its message: no call waits here for long, and none without a proven identity.

For gRPC every method here takes a stream of requests, because only then does it run our code when the headers arrive;
for others it first waits for the message, as long as the client likes. Clients see no difference: the wire does not
show which kind a method is.
"""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from time import monotonic
from typing import Any, TypeAlias

import grpc.aio
from google.protobuf.message import DecodeError

from cells.domain.refusals import RequestUnreadable
from server.shell.calls.budget import Budget
from server.shell.calls.denials import MessageLate, MessageMissing, TooManyCalls, TooManyStreams
from server.shell.identity.principal import Principal
from server.shell.rpc import Context, Metadata

# Between a call's headers and its message. A megabyte over a slow line takes less.
MESSAGE_S = 5.0
# Concurrent calls, below gRPC's own limit (hosting.CALLS_MAX).
CALLS_SHARED = 8_000
CALLS_RESERVED = 1_000
CALLS_PERSON = 256
STREAMS_SHARED = 1_000
STREAMS_PERSON = 10

Parse: TypeAlias = Callable[[bytes], object]

# grpc runs interceptors and handler of a call in one task; these hold its headers and the identity they prove.
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
    """Adds a quarter for operators, cells and routers."""
    return Budget(
        lambda count, principal: TooManyStreams(open_count=count, principal=principal),
        shared=shared,
        person=STREAMS_PERSON,
        reserved=-(-shared // 4),
    )


def as_it_is(data: bytes) -> bytes:
    """For requests that are passed on unparsed."""
    return data


class Messages:
    """Waits for the messages of calls whose headers have arrived. One timer serves all: most do not wait at all."""

    def __init__(self) -> None:
        # Call -> when its headers arrived, the oldest first.
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
        """Ends calls that have waited for their message for MESSAGE_S."""
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
