"""Wraps every call: identity and policy, deadline, clock exchange, and the status at the end.

This is one interceptor instead of several: each one costs time on every call, and their order would matter.

1. When the headers arrive, the caller proves its identity. If there is no room for more of its work, the call is
   turned away before its message; otherwise we wait a few seconds for the message. Then the call's cost is taken from
   the caller's budget and the policy is checked. A method without a policy is denied. Denials are counted.
2. A peer's clock is taken in before the handler reads ours.
3. A call without a deadline gets the default one.
4. However the handler ends, the client gets a status: for a refusal by the table, for any unforeseen error INTERNAL
   with an id that is also in the log. A peer gets our clock with it.

For gRPC every method here takes a stream of requests, because only then does it run our code when the headers arrive;
for others it first waits for the message, as long as the client likes. Clients see no difference: the wire does not
show which kind a method is.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import aclosing, suppress
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeAlias, TypeVar
from uuid import UUID

import grpc
import grpc.aio
import structlog
from google.protobuf.message import Message

from cells.domain.refusals import Denied, NotLeading, Refused
from server.shell.calls.call import (
    METADATA,
    Call,
    Messages,
    Parse,
    abort_call,
    as_it_is,
    call_or_none,
    enter_call,
    unless_bytes,
)
from server.shell.calls.connections import Connections
from server.shell.calls.limits import (
    STREAMS_SHARED,
    WATCHERS_TIMES,
    WATCHES,
    Budget,
    Throttle,
    calls_budget,
    streams_budget,
)
from server.shell.calls.open_calls import OpenCalls
from server.shell.calls.policy import NOBODY, OPEN_METHODS, PolicyTable
from server.shell.calls.statuses import CODE_BY_NUMBER, code_said, details_metadata, to_status
from server.shell.calls.streams import OpenStreams, write
from server.shell.identity.callers import Identity, SaidIdentity
from server.shell.identity.principal import Principal, Role
from server.shell.rpc import Context, Handler, Metadata

if TYPE_CHECKING:
    from server.shell.calls.otel import OtelTracing

DEFAULT_TIMEOUT_S = 30.0

log = structlog.get_logger()

Answered = TypeVar("Answered")
# Of one call of a principal, whose message may be bytes, or a stream of them.
Handle = Callable[[Principal, Any, Context], Awaitable[Answered]]
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


@dataclass(eq=False)
class CallGuard(grpc.aio.ServerInterceptor):
    """`policies` by full method name; `clock` may be absent, as in tests.

    `identity` determines the caller, and `throttle` limits it; `denied` receives the method and reason of each denied
    call. `streams_max` limits the streams that people and programs have open at once.

    `check_room` raises Refused while no more of the `queued` methods can be accepted from a principal. `observe`
    receives the method, status name and seconds of each finished call. `to_leader` forwards calls that this process
    would refuse with NotLeading.
    """

    policies: PolicyTable
    _: KW_ONLY
    clock: ClockExchange | None = None
    default_timeout_s: float = DEFAULT_TIMEOUT_S
    queued: AbstractSet[str] = frozenset()
    check_room: Callable[[str], None] = lambda _principal: None
    observe: Callable[[str, str, float], None] = lambda _method, _code, _seconds: None
    tracing: "OtelTracing | None" = None
    # The sagas that a principal's request begins or advances.
    sagas_of: Callable[[Message, str], Iterable[UUID]] = lambda _request, _principal: ()
    identity: Identity = field(default_factory=SaidIdentity)
    throttle: Throttle = field(default_factory=Throttle)
    denied: Callable[[str, str], None] = lambda _method, _reason: None
    streams_max: int = STREAMS_SHARED
    to_leader: ToLeader | None = None

    def __post_init__(self) -> None:
        self.calls_budget, self.streams_budget = calls_budget(), streams_budget(self.streams_max)
        self.watchers_budget = streams_budget(WATCHERS_TIMES * self.streams_max)
        # Covers no server until one is guarded.
        self.connections = Connections(of_one_max=0)
        self._messages, self.streams = Messages(), OpenStreams()
        self.open_calls = OpenCalls(self._messages, self._turn_away)
        # Method -> our handler, around the server's. Servers that share a guard take the same services.
        self._guarded: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Found]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Found:
        method = handler_call_details.method
        METADATA.set(handler_call_details.invocation_metadata)
        guarded = self._guarded.get(method)
        if guarded is None and (handler := await continuation(handler_call_details)) is not None:
            guard = self.open_calls.guarded if method in OPEN_METHODS else self._guard
            guarded = self._guarded[method] = guard(method, handler)
        return guarded

    def _guard(self, method: str, handler: Handler) -> Handler:
        if handler.request_streaming:
            raise TypeError(f"{method}: streams from the client are not guarded yet")
        parse, serializer = handler.request_deserializer or as_it_is, handler.response_serializer
        # Its types know nothing of grpc.aio.
        behavior: Any = handler.unary_stream or handler.unary_unary
        if handler.response_streaming:
            serializer = unless_bytes(serializer) if serializer is not None else None
            stream = self.entered(method, parse, partial(self._stream, method, behavior), is_stream=True)
            return grpc.stream_stream_rpc_method_handler(stream, response_serializer=serializer)
        unary = self.entered(method, parse, partial(self._unary, method, behavior))
        return grpc.stream_unary_rpc_method_handler(unary, response_serializer=serializer)

    def _budget(self, method: str, *, is_stream: bool) -> Budget:
        if not is_stream:
            return self.calls_budget
        return self.watchers_budget if method in WATCHES else self.streams_budget

    def entered(
        self,
        method: str,
        parse: Parse | None,
        handle: Handle[Answered],
        *,
        is_stream: bool = False,
        label: str = "",
    ) -> Callable[[Any, Context], Awaitable[Answered]]:
        """`handle`, after the caller is known, there is room and the message has arrived; every error is answered.

        Without `parse`, `handle` gets the messages as they arrive, and none is waited for. `label` names the method in
        metrics, if its own name is a client's invention.
        """
        handle, label = self._traced(method, handle), label or method

        async def entered(messages: Any, context: Context) -> Answered:  # noqa: ANN401 - a stream of bytes
            began_s, code = 0.0, ""
            budget = self._budget(method, is_stream=is_stream)
            entered_as: Principal | None = None
            try:
                principal = await self._caller(method, context)
                if method in self.queued:
                    with suppress(NotLeading):
                        # The call is forwarded to the leader, or refused by the handler.
                        self.check_room(str(principal))
                budget.enter(principal)
                entered_as = principal
                if is_stream:
                    self.streams.add(self._identity_for(method), METADATA.get(), context)
                request = messages if parse is None else await self._messages.one_of(context, parse, method)
                began_s = perf_counter()
                answer = await handle(principal, request, context)
                code = "OK"
            except BaseException as error:  # noqa: BLE001 - each is answered
                await self._fail(error, label, context)
            finally:
                if entered_as is not None:
                    budget.leave(entered_as)
                if is_stream:
                    self.streams.discard()
                self.observe(label, code or code_said(context), perf_counter() - began_s if began_s else 0.0)
            return answer

        return entered

    def _identity_for(self, method: str) -> Identity:  # noqa: ARG002 - for those who know several
        return self.identity

    async def _caller(self, method: str, context: Context) -> Principal:
        """Raises Denied, which counts against the connection."""
        try:
            principal = await self._identity_for(method).caller(METADATA.get(), context)
        except Denied:
            self.connections.denied(context)
            raise
        self.connections.admitted(context)
        return principal

    async def _turn_away(self, error: BaseException, method: str, context: Context) -> NoReturn:
        """Ends a call that needs no identity."""
        try:
            await self._fail(error, method, context)
        finally:
            self.observe(method, code_said(context), 0.0)

    def _traced(self, method: str, handle: Handle[Answered]) -> Handle[Answered]:
        """Returns `handle` unchanged if there are no traces."""
        tracing = self.tracing
        if tracing is None:
            return handle

        async def traced(principal: Principal, request: Any, context: Context) -> Answered:  # noqa: ANN401 - as of any
            code = ""
            with tracing.call(method, METADATA.get()) as span:
                try:
                    answer = await handle(principal, request, context)
                    code = "OK"
                except BaseException as error:  # noqa: BLE001 - each is answered
                    await self._fail(error, method, context)
                finally:
                    if call_or_none() is not None:
                        # It was admitted.
                        span.link(self.sagas_of(request, str(principal)))
                    span.ended(code or code_said(context))
                return answer

        return traced

    async def _unary(
        self,
        method: str,
        behavior: Callable[[Message, Context], Awaitable[Message]],
        principal: Principal,
        request: Message,
        context: Context,
    ) -> Message:
        remaining_s: Any = context.time_remaining()
        call = self._admit(method, principal, request, self.default_timeout_s if remaining_s is None else remaining_s)
        try:
            if remaining_s is None:
                response = await self._bounded(behavior(request, context), context)
            else:
                # grpc itself cancels the task at the client's deadline.
                response = await behavior(request, context)
        except NotLeading as refused:
            if self.to_leader is None:
                raise
            # The leader has sent its own clock.
            return await self.to_leader.unary(method, request, context, principal, refused)
        self._show_clock(call, context)
        return response

    async def _stream(
        self,
        method: str,
        behavior: Callable[[Message, Context], AsyncGenerator[Message, None]],
        principal: Principal,
        request: Message,
        context: Context,
    ) -> None:
        """All is written and closed in this very task: the subscription ends at once when the client goes."""
        call = self._admit(method, principal, request, context.time_remaining())
        written = False
        try:
            async with aclosing(behavior(request, context)) as responses:
                async for response in responses:
                    written = True
                    await write(method, response, context)
        except NotLeading as refused:
            if self.to_leader is None or written:
                raise
            async with aclosing(self.to_leader.stream(method, request, context, principal, refused)) as responses:
                async for response in responses:
                    await context.write(response)
            return
        self._show_clock(call, context)

    def _admit(self, method: str, principal: Principal, request: Message, timeout_s: float | None) -> Call:
        policy = self.policies.get(method, NOBODY)
        self.throttle.check(principal, lambda: policy.cost(request))
        policy.check(principal, request, method)
        call = enter_call(method, principal, timeout_s)
        if principal.role is Role.PEER and self.clock is not None:
            self.clock.received(METADATA.get(), principal)
        return call

    async def _bounded(self, answer: Awaitable[Message], context: Context) -> Message:
        limit = asyncio.timeout(self.default_timeout_s)
        try:
            async with limit:
                return await answer
        except TimeoutError:
            if limit.expired():
                # No ErrorInfo: work under way may still take effect.
                await abort_call(
                    context,
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    f"no deadline was sent, and the default of {self.default_timeout_s:g} s has passed: "
                    "the outcome is unknown, ask again with the same command_id",
                )
            raise

    def _show_clock(self, call: Call | None, context: Context) -> None:
        """Sends our clock to peers, whose clocks follow it."""
        if call is not None and self.clock is not None and call.principal.role is Role.PEER:
            context.set_trailing_metadata((*context.trailing_metadata(), *self.clock.outgoing()))

    async def _fail(self, error: BaseException, method: str, context: Context) -> NoReturn:
        """Ends the call with the status for `error`."""
        call = call_or_none()
        if isinstance(error, asyncio.CancelledError):
            error = self.streams.why_ended() or error
        match error:
            case grpc.aio.BaseError():
                # Already aborted, or raised by grpc: the client has gone, or the server stops.
                raise error
            case Refused():
                if isinstance(error, Denied):
                    self.denied(method, error.reason)
                status = to_status(error)
                code, text = CODE_BY_NUMBER[status.code], status.message
                self._show_clock(call, context)
                context.set_trailing_metadata((*context.trailing_metadata(), *details_metadata(status)))
            case asyncio.CancelledError():
                code, text = self._cancelled(error)
            case Exception():
                correlation_id = call.correlation_id if call is not None else "none"
                log.error("call_failed", method=method, correlation_id=correlation_id, exc_info=error)
                code, text = grpc.StatusCode.INTERNAL, f"internal error, correlation id {correlation_id}"
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
