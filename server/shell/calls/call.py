"""The call that is being handled: caller, method and time limit. Servicers ask `current_call()`."""

import asyncio
import itertools
import secrets
from contextvars import ContextVar
from typing import Any, NamedTuple, NoReturn

import grpc
import grpc.aio

from server.shell.identity.principal import Principal


class Call(NamedTuple):
    # "/cellbook.v1.LedgerService/Deposit"
    method: str
    principal: Principal
    # The rest of the client's deadline, or of the server's default; None: no deadline.
    timeout_s: float | None
    # Identifies the call in the log and in the answer to an internal error.
    correlation_id: str


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
    call = Call(method, principal, timeout_s, f"{_PROCESS}-{next(_NUMBERS):x}")
    _CURRENT.set(call)
    return call


async def abort_call(context: "grpc.aio.ServicerContext[Any, Any]", code: grpc.StatusCode, text: str) -> NoReturn:
    """Ends the call of `context`. The trailing metadata set on the context before are sent with it."""
    try:
        await context.abort(code, text)
    except grpc.aio.InternalError:
        # The client has already gone; grpc would log that at length.
        raise asyncio.CancelledError from None
    raise AssertionError("abort raises")
