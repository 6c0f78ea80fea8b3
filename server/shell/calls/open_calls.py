"""Health and reflection, which need no identity: a few calls at once per connection, each limited in time.

The connection limits them, because no identity can. A client needs one stream over each of its connections, to watch
the health of the server behind it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, NoReturn

import grpc
import grpc.aio

from server.shell.calls.call import Messages, as_it_is
from server.shell.calls.denials import TooManyCalls
from server.shell.rpc import Context, Handler

# Over one connection.
OPEN_CALLS_MAX = 16
# By then a channel watches over another connection: connections end after ten minutes.
WATCH_S = 15 * 60.0
REFLECTION_S = 60.0

TurnAway = Callable[[BaseException, str, Context], Awaitable[NoReturn]]


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
        behavior: Any = handler.unary_unary or handler.unary_stream or handler.stream_stream

        async def guarded(messages: object, context: Context) -> object:
            connection = context.peer()
            held = self._held.get(connection, 0)
            if held >= OPEN_CALLS_MAX:
                await self._turn_away(TooManyCalls(principal="this connection", open_count=held), method, context)
            self._held[connection] = held + 1
            try:
                if handler.request_streaming:
                    # Its messages are decoded as they arrive.
                    await _written(behavior(messages, context), context, REFLECTION_S)
                    return None
                request = await self._messages.one_of(context, handler.request_deserializer or as_it_is, method)
                if handler.response_streaming:
                    await _written(behavior(request, context), context, WATCH_S)
                    return None
                return await behavior(request, context)
            except BaseException as error:  # noqa: BLE001 - each is answered
                await self._turn_away(error, method, context)
            finally:
                self._held[connection] -= 1
                if not self._held[connection]:
                    del self._held[connection]

        coding: dict[str, Any] = {"response_serializer": handler.response_serializer}
        if handler.request_streaming:
            coding["request_deserializer"] = handler.request_deserializer
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(guarded, **coding)
        return grpc.stream_unary_rpc_method_handler(guarded, **coding)


async def _written(responses: Any, context: Context, most_s: float) -> None:  # noqa: ANN401 - a generator
    """Ends well after `most_s`; a client that is still there starts again."""
    with suppress(TimeoutError):
        async with asyncio.timeout(most_s), aclosing(responses):
            async for response in responses:
                await context.write(response)
