"""Health and reflection, which need no identity: a few calls at once per connection, each limited in time.

The connection limits them, because no identity can. A client needs one stream over each of its connections, to watch
the health of the server behind it.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio

from server.shell.calls.denials import TooManyCalls
from server.shell.calls.entrance import Messages, as_it_is
from server.shell.rpc import Context, Handler

# Over one connection.
OPEN_CALLS_MAX = 16
# By then a channel watches over another connection: connections end after ten minutes.
WATCH_S = 15 * 60.0
REFLECTION_S = 60.0

TurnAway: TypeAlias = Callable[[BaseException, str, Context], Awaitable[NoReturn]]


class OpenCalls:
    """`turn_away` ends a call with the status for an error."""

    def __init__(self, messages: Messages, turn_away: TurnAway) -> None:
        self._messages = messages
        self._turn_away = turn_away
        # Connection -> calls under way over it.
        self._held: dict[str, int] = {}

    @property
    def held(self) -> int:
        """Over all connections."""
        return sum(self._held.values())

    def guarded(self, method: str, handler: Handler) -> Handler:
        coding: dict[str, Any] = {"response_serializer": handler.response_serializer}
        if handler.request_streaming:
            # Messages are decoded as they arrive.
            coding["request_deserializer"] = handler.request_deserializer
            return grpc.stream_stream_rpc_method_handler(self._bounded(method, self._reflected(handler)), **coding)
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._bounded(method, self._watched(method, handler)), **coding
            )
        return grpc.stream_unary_rpc_method_handler(self._bounded(method, self._asked(method, handler)), **coding)

    def _bounded(
        self, method: str, inner: Callable[[Any, Context], Awaitable[object]]
    ) -> Callable[[Any, Context], Awaitable[object]]:
        async def bounded(messages: object, context: Context) -> object:
            connection = context.peer()
            held = self._held.get(connection, 0)
            if held >= OPEN_CALLS_MAX:
                await self._turn_away(TooManyCalls(principal="this connection", open_count=held), method, context)
            self._held[connection] = held + 1
            try:
                return await inner(messages, context)
            except BaseException as error:  # noqa: BLE001 - each is answered
                await self._turn_away(error, method, context)
            finally:
                self._held[connection] -= 1
                if not self._held[connection]:
                    del self._held[connection]

        return bounded

    def _asked(self, method: str, handler: Handler) -> Callable[[object, Context], Awaitable[object]]:
        async def asked(_messages: object, context: Context) -> object:
            request = await self._messages.one_of(context, handler.request_deserializer or as_it_is, method)
            behavior: Any = handler.unary_unary
            return await behavior(request, context)

        return asked

    def _watched(self, method: str, handler: Handler) -> Callable[[object, Context], Awaitable[None]]:
        async def watched(_messages: object, context: Context) -> None:
            request = await self._messages.one_of(context, handler.request_deserializer or as_it_is, method)
            behavior: Any = handler.unary_stream
            await _written(behavior(request, context), context, WATCH_S)

        return watched

    def _reflected(self, handler: Handler) -> Callable[[object, Context], Awaitable[None]]:
        async def reflected(messages: Any, context: Context) -> None:  # noqa: ANN401 - requests of any stream
            behavior: Any = handler.stream_stream
            await _written(behavior(messages, context), context, REFLECTION_S)

        return reflected


async def _written(responses: AsyncGenerator[object, None], context: Context, most_s: float) -> None:
    """Ends well after `most_s`; a client that is still there starts again."""
    try:
        async with asyncio.timeout(most_s), aclosing(responses):
            async for response in responses:
                await context.write(response)
    except TimeoutError:
        return
