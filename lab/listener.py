"""A TCP server on this machine whose end leaves no connection open."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from server.shell.settings.addresses import LOOPBACK

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
# Turns of the event loop from the arrival of a connection to its handler.
ACCEPT_TURNS = 4


@dataclass(slots=True, eq=False)
class Listener:
    """Runs `handle` for each connection, and then cuts it. An OSError of `handle` is the end of its connection."""

    handle: Handle
    tls: ssl.SSLContext | None = None
    _server: asyncio.Server | None = None
    _handlers: dict[asyncio.Task[None], asyncio.StreamWriter] = field(default_factory=dict)

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._accepted, LOOPBACK, 0, ssl=self.tls)

    @property
    def address(self) -> str:
        if self._server is None:
            raise RuntimeError("it does not listen yet")
        return f"{LOOPBACK}:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Cuts all connections, also one that is being accepted at this moment."""
        # If the server closes while asyncio accepts a connection, asyncio forgets the socket and leaves it open.
        for _ in range(ACCEPT_TURNS):
            await asyncio.sleep(0)
        if self._server is not None:
            self._server.close()
        ended = dict(self._handlers)
        for handler in ended:
            handler.cancel()
        await asyncio.gather(*ended, return_exceptions=True)
        # A handler that was cancelled before its first step has cut nothing.
        for writer in ended.values():
            writer.transport.abort()

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.ensure_future(self._handled(reader, writer))
        self._handlers[handler] = writer
        handler.add_done_callback(self._handlers.pop)

    async def _handled(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError):
                await self.handle(reader, writer)
        finally:
            writer.transport.abort()
