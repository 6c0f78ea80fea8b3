"""An attacker's connections: calls that send their headers and never their message, by hand-made HTTP/2."""

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from server.shell.settings.addresses import Address
from tests.fuzz.frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    SETTINGS,
    frame,
    header,
    message,
)

Pairs = Sequence[tuple[str, str]]

_HEAD = struct.Struct(">I")
RST = 3
_INITIAL_WINDOW = 4


@dataclass(slots=True)
class HalfOpen:
    """One connection. `ended`: streams that the server has ended, by their numbers."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    opened: int = 0
    ended: set[int] = field(default_factory=set)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def held(self) -> int:
        """Calls that the server has not ended."""
        return self.opened - len(self.ended)

    def send(self, path: str, calls: int, metadata: Pairs = (), *, content: bytes | None = None) -> None:
        """Headers, `calls` times, and no more unless there is a `content`."""
        named = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x"}
        fixed = {"content-type": "application/grpc", "te": "trailers"}
        block = b"".join(header(name, value) for name, value in (*named.items(), *fixed.items(), *metadata))
        first = 2 * self.opened + 1
        streams = range(first, first + 2 * calls, 2)
        end = b"" if content is None else message(content)
        frames = (
            frame(HEADERS, END_HEADERS, stream, block) + (frame(DATA, END_STREAM, stream, end) if end else b"")
            for stream in streams
        )
        self.writer.write(b"".join(frames))
        self.opened += calls

    async def read(self) -> None:
        """Answers what keeps the connection alive, and notes which streams have ended."""
        with suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
            while True:
                head = await self.reader.readexactly(9)
                size = _HEAD.unpack(b"\0" + head[:3])[0]
                kind, flags, stream = head[3], head[4], _HEAD.unpack(head[5:])[0]
                content = await self.reader.readexactly(size)
                if kind == SETTINGS and not flags & ACK:
                    self.writer.write(frame(SETTINGS, ACK, 0, b""))
                elif kind == PING and not flags & ACK:
                    self.writer.write(frame(PING, ACK, 0, content))
                elif kind == RST or (kind == HEADERS and flags & 1):
                    self.ended.add(stream)
        self.closed.set()


@asynccontextmanager
async def connected(
    address: Address, *, tls: ssl.SSLContext | None = None, window: int = 65_535
) -> AsyncIterator[HalfOpen]:
    """`window`: how many bytes the server may send on a stream; the attacker never asks for more."""
    reader, writer = await asyncio.open_connection(
        address.host, address.port, ssl=tls, server_hostname=address.host if tls else None
    )
    writer.write(PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW, window)))
    attacker = HalfOpen(reader, writer)
    reading = asyncio.create_task(attacker.read())
    try:
        yield attacker
    finally:
        reading.cancel()
        # Without goodbye, for which TLS would wait.
        writer.transport.abort()
