"""Wraps every call: identity and policy, deadline, clock exchange, and the status at the end.

This is one interceptor instead of several: each one costs time on every call, and their order would matter.

1. When the headers arrive, the caller proves its identity. If there is no room for more of its work, the call is
   turned away before its message; otherwise we wait a few seconds for the message (entrance.py). Then the call's cost
   is taken from the caller's budget and the policy is checked. A method without a policy is denied. Denials are
   counted.
2. A peer's clock is taken in before the handler reads ours.
3. A call without a deadline gets the default one.
4. However the handler ends, the client gets a status: for a refusal by the table, for any unforeseen error INTERNAL
   with an id that is also in the log. A peer gets our clock with it.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import aclosing, suppress
from importlib.metadata import version
from time import perf_counter
from typing import Any, NoReturn, Protocol, TypeAlias, TypeVar, cast

import grpc
import grpc.aio
import structlog
from google.protobuf.message import Message

from cells.domain.refusals import Denied, NotLeading, Refused
from server.shell.calls.absent import always_room, no_trouble, nobody_counts, nobody_counts_denied
from server.shell.calls.budget import Budget
from server.shell.calls.call import Call, abort_call, call_or_none, enter_call
from server.shell.calls.connections import Connections
from server.shell.calls.entrance import (
    CALLER,
    METADATA,
    STREAMS_SHARED,
    Messages,
    Parse,
    as_it_is,
    calls_budget,
    streams_budget,
)
from server.shell.calls.open_calls import OpenCalls
from server.shell.calls.policy import NOBODY, OPEN_METHODS, PolicyTable
from server.shell.calls.statuses import CODE_BY_NUMBER, code_said, details_metadata, to_status
from server.shell.calls.streams import OpenStreams
from server.shell.calls.throttle import Throttle
from server.shell.identity.callers import Identity, SaidIdentity
from server.shell.identity.principal import Principal, Role
from server.shell.observability.tracing import SagasOf, Tracing, no_sagas
from server.shell.rpc import Context, Handler, Metadata

DEFAULT_TIMEOUT_S = 30.0
VERSION_KEY = "cellbook-version"
# Sent to operators: the problems of the log that this process knows.
TROUBLE_KEY = "cellbook-trouble"
VERSION = version("cellbook")

log = structlog.get_logger()

Unary = Callable[[Message, Context], Awaitable[Message]]
Stream = Callable[[Message, Context], AsyncGenerator[Message, None]]
Answered = TypeVar("Answered")
Guarded = Callable[[Message, Context], Awaitable[Answered]]
# None: the server has no such method.
Found: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"


class ClockExchange(Protocol):
    """Our clock, as it meets those of other cells."""

    def received(self, metadata: Metadata, principal: Principal) -> None:
        """Takes in the clock of a peer's call or answer. Raises Refused; then nothing has changed."""

    def outgoing(self) -> Sequence[tuple[str, str]]:
        """The metadata that carry our clock to a peer."""


class ToLeader(Protocol):
    """Both raise `refused` if the leader cannot be asked, and otherwise end the call as the leader does."""

    async def unary(
        self, method: str, request: Message, context: Context, principal: Principal, refused: Refused
    ) -> Message: ...

    def stream(
        self, method: str, request: Message, context: Context, principal: Principal, refused: Refused
    ) -> AsyncGenerator[Message, None]: ...


class CallGuard(grpc.aio.ServerInterceptor):
    """`policies` by full method name; `clock` may be absent, as in tests.

    `identity` determines the caller, and `throttle` limits it; `denied` receives the method and reason of each denied
    call. `streams_max` limits the streams that people and programs have open at once.

    `check_room` raises Refused while no more of the `queued` methods can be accepted from a principal. `observe`
    receives the method, status name and seconds of each finished call. `to_leader` forwards calls that this process
    would refuse with NotLeading. `trouble` is sent to operators: what is wrong with the log, in ASCII; empty: nothing.
    """

    def __init__(
        self,
        policies: PolicyTable,
        *,
        clock: ClockExchange | None = None,
        default_timeout_s: float = DEFAULT_TIMEOUT_S,
        queued: AbstractSet[str] = frozenset(),
        check_room: Callable[[str], None] = always_room,
        observe: Callable[[str, str, float], None] = nobody_counts,
        tracing: Tracing | None = None,
        sagas_of: SagasOf = no_sagas,
        identity: Identity | None = None,
        throttle: Throttle | None = None,
        denied: Callable[[str, str], None] = nobody_counts_denied,
        streams_max: int = STREAMS_SHARED,
        to_leader: ToLeader | None = None,
        trouble: Callable[[], str] = no_trouble,
    ) -> None:
        self._policies = policies
        self._to_leader = to_leader
        self._trouble = trouble
        self._identity = identity or SaidIdentity()
        self._throttle = throttle or Throttle()
        self._denied = denied
        self._calls_budget = calls_budget()
        self._streams_budget = streams_budget(streams_max)
        self._messages = Messages()
        # Covers no server until one is guarded.
        self.connections = Connections(of_one_max=0)
        self._open = OpenCalls(self._messages, self._turn_away)
        self._streams = OpenStreams()
        self._queued = queued
        self._check_room = check_room
        self._observe = observe
        self._tracing = tracing
        self._sagas_of = sagas_of
        self._clock = clock
        self._default_timeout_s = default_timeout_s
        # Method -> the server's handler, and ours around it.
        self._guarded: dict[str, tuple[Handler, Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Found]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Found:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:
            return None
        METADATA.set(handler_call_details.invocation_metadata)
        known = self._guarded.get(method)
        if known is None or known[0] is not handler:
            guard = self._open.guarded if method in OPEN_METHODS else self._guard
            known = self._guarded[method] = (handler, guard(method, handler))
        return known[1]

    def end_streams(self) -> None:
        """Ends streams that would never end by themselves, so that a drain need not wait for them."""
        self._streams.end_all()

    def _guard(self, method: str, handler: Handler) -> Handler:
        if handler.request_streaming:
            raise TypeError(f"{method}: streams from the client are not guarded yet")
        parse, serializer = handler.request_deserializer or as_it_is, handler.response_serializer
        if handler.response_streaming:
            stream = self._traced(method, self._stream(method, cast("Stream", handler.unary_stream)))
            entered_stream = self._entered(method, parse, stream, self._streams_budget)
            return grpc.stream_stream_rpc_method_handler(entered_stream, response_serializer=serializer)
        unary = self._traced(method, self._unary(method, cast("Unary", handler.unary_unary)))
        entered = self._entered(method, parse, unary, self._calls_budget)
        return grpc.stream_unary_rpc_method_handler(entered, response_serializer=serializer)

    def _entered(
        self, method: str, parse: Parse | None, inner: Callable[[Any, Context], Awaitable[Answered]], budget: Budget
    ) -> Callable[[Any, Context], Awaitable[Answered]]:
        """`inner`, after the caller is known, there is room and the message has arrived.

        Without `parse`, `inner` gets the messages as they arrive, and none is waited for.
        """

        async def entered(messages: AsyncIterable[bytes], context: Context) -> Answered:
            try:
                principal = await self._caller(method, context)
                if method in self._queued:
                    with suppress(NotLeading):
                        # The call is forwarded to the leader, or refused by the handler.
                        self._check_room(str(principal))
                budget.enter(principal)
            except BaseException as error:  # noqa: BLE001 - each is answered
                await self._turn_away(error, method, context)
            try:
                try:
                    request = messages if parse is None else await self._messages.one_of(context, parse, method)
                except BaseException as error:  # noqa: BLE001 - each is answered
                    await self._turn_away(error, method, context)
                return await inner(request, context)
            finally:
                budget.leave(principal)

        return entered

    def _identity_for(self, method: str) -> Identity:  # noqa: ARG002 - for those who know several
        return self._identity

    async def _caller(self, method: str, context: Context) -> Principal:
        """Raises Denied, which counts against the connection."""
        try:
            principal = await self._identity_for(method).caller(METADATA.get(), context)
        except Denied:
            self.connections.denied(context)
            raise
        self.connections.admitted(context)
        CALLER.set(principal)
        return principal

    async def _turn_away(self, error: BaseException, method: str, context: Context) -> NoReturn:
        """Ends a call that was not admitted."""
        try:
            await self._fail(error, method, context)
        finally:
            self._observe(method, code_said(context), 0.0)

    def _traced(self, method: str, guarded: Guarded[Answered]) -> Guarded[Answered]:
        """Returns `guarded` unchanged if there are no traces."""
        tracing = self._tracing
        if tracing is None:
            return guarded

        async def traced(request: Message, context: Context) -> Answered:
            with tracing.call(method, METADATA.get()) as span:
                try:
                    answer = await guarded(request, context)
                except BaseException:
                    span.ended(code_said(context))
                    raise
                finally:
                    # The caller is unknown until the call is admitted.
                    if (call := call_or_none()) is not None:
                        span.link(self._sagas_of(request, str(call.principal)))
                span.ended("OK")
                return answer

        return traced

    def _unary(self, method: str, behavior: Unary) -> Guarded[Message]:
        async def guarded(request: Message, context: Context) -> Message:
            began_s, code = perf_counter(), ""
            call: Call | None = None
            try:
                call = self._admit(method, request, context, self._default_timeout_s)
                try:
                    if _remaining_s(context) is None:
                        response = await self._bounded(behavior(request, context), context)
                    else:
                        # grpc itself cancels the task at the client's deadline.
                        response = await behavior(request, context)
                except NotLeading as refused:
                    if self._to_leader is None:
                        raise
                    response = await self._to_leader.unary(method, request, context, call.principal, refused)
                    # The leader has sent its own clock.
                    call = None
                code = "OK"
            except BaseException as error:  # noqa: BLE001 - each is answered
                await self._fail(error, method, context)
            finally:
                self._observe(method, code or code_said(context), perf_counter() - began_s)
            self._show_clock(call, context)
            return response

        return guarded

    def _stream(self, method: str, behavior: Stream) -> Guarded[None]:
        async def guarded(request: Message, context: Context) -> None:
            began_s, code = perf_counter(), ""
            call: Call | None = None
            try:
                self._streams.add(self._identity, METADATA.get(), context)
                call = self._admit(method, request, context, None)
                if await self._write_stream(method, behavior, request, context, call.principal):
                    call = None
                code = "OK"
            except BaseException as error:  # noqa: BLE001 - each is answered
                await self._fail(error, method, context)
            finally:
                self._streams.discard()
                self._observe(method, code or code_said(context), perf_counter() - began_s)
            self._show_clock(call, context)

        return guarded

    async def _write_stream(
        self, method: str, behavior: Stream, request: Message, context: Context, principal: Principal
    ) -> bool:
        """Writes the handler's stream; returns True if the leader produced it.

        All is written and closed in this very task, so that the subscription ends as soon as the client goes, not when
        an abandoned generator is collected.
        """
        written = False
        try:
            async with aclosing(behavior(request, context)) as responses:
                async for response in responses:
                    written = True
                    await context.write(response)
        except NotLeading as refused:
            if self._to_leader is None or written:
                raise
            async with aclosing(self._to_leader.stream(method, request, context, principal, refused)) as responses:
                async for response in responses:
                    await context.write(response)
            return True
        return False

    def _admit(self, method: str, request: Message, context: Context, default_timeout_s: float | None) -> Call:
        principal, policy = CALLER.get(), self._policies.get(method, NOBODY)
        self._throttle.check(principal, lambda: policy.cost(request))
        policy.check(principal, request, method)
        remaining_s = _remaining_s(context)
        call = enter_call(method, principal, default_timeout_s if remaining_s is None else remaining_s)
        if principal.role is Role.PEER and self._clock is not None:
            self._clock.received(METADATA.get(), principal)
        return call

    async def _bounded(self, answer: Awaitable[Message], context: Context) -> Message:
        limit = asyncio.timeout(self._default_timeout_s)
        try:
            async with limit:
                return await answer
        except TimeoutError:
            if limit.expired():
                # No ErrorInfo: work under way may still take effect.
                await abort_call(
                    context,
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    f"no deadline was sent, and the default of {self._default_timeout_s:g} s has passed: "
                    "the outcome is unknown, ask again with the same command_id",
                )
            raise

    def _show_clock(self, call: Call | None, context: Context) -> None:
        """Sends our clock to peers, whose clocks follow it, and to operators, who check it."""
        if call is None or self._clock is None:
            return
        if call.principal.role is Role.PEER:
            context.set_trailing_metadata((*context.trailing_metadata(), *self._clock.outgoing()))
        elif call.principal.role is Role.OPERATOR:
            trouble = self._trouble()
            told = (*self._clock.outgoing(), (VERSION_KEY, VERSION), *(((TROUBLE_KEY, trouble),) if trouble else ()))
            context.set_trailing_metadata((*context.trailing_metadata(), *told))

    async def _fail(self, error: BaseException, method: str, context: Context) -> NoReturn:
        """Ends the call with the status for `error`."""
        call = call_or_none()
        if isinstance(error, asyncio.CancelledError):
            error = self._streams.why_ended() or error
        match error:
            case grpc.aio.BaseError():
                # Already aborted, or raised by grpc: the client has gone, or the server stops.
                raise error
            case Refused():
                if isinstance(error, Denied):
                    self._denied(method, error.reason)
                status = to_status(error)
                code, text = CODE_BY_NUMBER[status.code], status.message
                self._show_clock(call, context)
                context.set_trailing_metadata((*context.trailing_metadata(), *details_metadata(status)))
            case asyncio.CancelledError():
                code, text = self._cancelled(error)
            case Exception():
                log.error("call_failed", method=method, exc_info=error)
                code = grpc.StatusCode.INTERNAL
                text = f"internal error, correlation id {call.correlation_id if call else 'none'}"
            case _:
                # The process is being shut down.
                raise error
        await abort_call(context, code, text)

    def _cancelled(self, error: asyncio.CancelledError) -> tuple[grpc.StatusCode, str]:
        """Raises `error` again if the client has gone.

        Otherwise something that the handler waited for was cancelled. If that escaped, grpc would take it for the
        client's own cancellation and answer nothing: the client would wait for its whole deadline (grpc/grpc#29248).
        """
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise error
        log.warning("call_cancelled_inside")
        return grpc.StatusCode.UNAVAILABLE, "cancelled inside the server: the outcome is unknown, ask again"


def _remaining_s(context: Context) -> float | None:
    """None if the client has sent no deadline."""
    return context.time_remaining()
