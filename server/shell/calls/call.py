"""The call that is being handled: headers, message, caller, method and time limit. Servicers ask `current_call()`."""

import asyncio
import itertools
import secrets
from collections.abc import Callable
from contextvars import ContextVar
from time import monotonic
from typing import Any, NamedTuple, NoReturn

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from cells.domain.refusals import RequestUnreadable
from server.shell.calls.denials import MessageLate, MessageMissing
from server.shell.identity.principal import Principal
from server.shell.rpc import Context, Metadata

# Between a call's headers and its message. A megabyte over a slow line takes less.
MESSAGE_S = 5.0

Parse = Callable[[bytes], object]

# grpc runs interceptors and handler of a call in one task: this holds its headers.
METADATA: ContextVar[Metadata] = ContextVar("metadata", default=())


class Call(NamedTuple):
    # "/cellbook.v1.LedgerService/Deposit"
    method: str
    principal: Principal
    # The rest of the client's deadline, or of the server's default; None: no deadline.
    timeout_s: float | None
    number: int

    @property
    def correlation_id(self) -> str:
        """Identifies the call in the log and in the answer to an internal error."""
        return f"{_PROCESS}-{self.number:x}"


_CURRENT: ContextVar[Call | None] = ContextVar("call", default=None)
_PROCESS = secrets.token_hex(4)
_NUMBERS = itertools.count(1)


def current_call() -> Call:
    """The call that the running task handles.

    Raises:
        LookupError: the task handles no call, as in a timer.
    """
    call = _CURRENT.get()
    if call is None:
        raise LookupError("no call is being handled here")
    return call


def call_or_none() -> Call | None:
    return _CURRENT.get()


def enter_call(method: str, principal: Principal, timeout_s: float | None) -> Call:
    """Marks the rest of this task as the handling of a call. grpc gives each call a task of its own."""
    call = Call(method, principal, timeout_s, next(_NUMBERS))
    _CURRENT.set(call)
    return call


def as_it_is(data: bytes) -> bytes:
    """For requests that are passed on unparsed."""
    return data


def unless_bytes(serialize: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """For answers that may be serialized already, as one that goes to many callers."""
    return lambda answer: answer if isinstance(answer, bytes) else serialize(answer)


def running_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("calls are handled in tasks")
    return task


class Messages:
    """Waits for the messages of calls whose headers have arrived.

    One timer serves all, because most do not wait at all: a timeout of its own would cost each call 6 µs.
    """

    def __init__(self) -> None:
        # Call -> when its headers arrived, the oldest first; None: it has waited too long.
        self._since_s: dict[asyncio.Task[Any], float | None] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def one_of(self, context: Context, parse: Parse, method: str) -> Any:  # noqa: ANN401 - of any method
        """The one message of a call, parsed. Raises MessageLate, MessageMissing, RequestUnreadable."""
        task = running_task()
        self._since_s[task] = monotonic()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(MESSAGE_S, self._sweep)
        try:
            data: Any = await context.read()
        except asyncio.CancelledError:
            if self._since_s[task] is not None:
                raise
            task.uncancel()
            raise MessageLate(method=method, wait_s=f"{MESSAGE_S:g}") from None
        finally:
            del self._since_s[task]
        if data is grpc.aio.EOF:
            raise MessageMissing(method=method)
        try:
            return parse(data)
        except DecodeError:
            raise RequestUnreadable(method=method) from None

    def _sweep(self) -> None:
        """Ends calls that have waited for their message for MESSAGE_S."""
        now_s, self._timer = monotonic(), None
        for task, since_s in self._since_s.items():
            if since_s is None:
                continue
            left_s = since_s + MESSAGE_S - now_s
            if left_s > 0:
                self._timer = asyncio.get_running_loop().call_later(left_s, self._sweep)
                return
            self._since_s[task] = None
            task.cancel()


async def abort_call(context: Context, code: grpc.StatusCode, text: str) -> NoReturn:
    """Ends the call of `context`. The trailing metadata set on the context before are sent with it."""
    try:
        await context.abort(code, text)
    except grpc.aio.InternalError:
        # The client has already gone; grpc would log that at length.
        raise asyncio.CancelledError from None
    raise AssertionError("abort raises")
