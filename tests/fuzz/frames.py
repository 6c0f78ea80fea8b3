"""Connections that speak HTTP/2 badly, gRPC badly, or neither: whatever comes, the server goes on for all others."""

import asyncio
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
# A server that holds a bad connection open is left after this.
PATIENCE_S = 1.0
AT_ONCE = 16
# In place of a header's value: it is left out.
MISSING = "-"

Rng = random.Random


def frame(kind: int, flags: int, stream: int, content: bytes, length: int | None = None) -> bytes:
    size = len(content) if length is None else length
    return struct.pack(">I", size)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + content


def header(name: str, value: str) -> bytes:
    """A literal that is not indexed, without Huffman (RFC 7541, 6.2.2)."""
    return b"\x00" + _string(name.encode()) + _string(value.encode())


def _string(text: bytes) -> bytes:
    if len(text) < 0x7F:
        return bytes([len(text)]) + text
    left, encoded = len(text) - 0x7F, b"\x7f"
    while left > 0x7F:
        encoded += bytes([left & 0x7F | 0x80])
        left >>= 7
    return encoded + bytes([left]) + text


def headers_of(path: str, **changes: str) -> bytes:
    named = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "x",
        "content-type": "application/grpc",
        "te": "trailers",
        "cellbook-principal": "service/fuzz",
        **changes,
    }
    return b"".join(header(name, value) for name, value in named.items() if value != MISSING)


def message(content: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    """As gRPC frames it: compressed or not, the length, the message."""
    return bytes([flag]) + struct.pack(">I", len(content) if length is None else length) + content


def begun(*frames: bytes) -> bytes:
    return PREFACE + frame(SETTINGS, 0, 0, b"") + b"".join(frames)


def call(rng: Rng, paths: Sequence[str], content: bytes, **changes: str) -> bytes:
    named = headers_of(rng.choice(paths), **changes)
    return begun(frame(HEADERS, END_HEADERS, 1, named), frame(DATA, END_STREAM, 1, content))


def junk_frames(rng: Rng) -> bytes:
    kinds = ((rng.randrange(256), rng.randrange(256), rng.randrange(2**31)) for _ in range(20))
    return begun(*(frame(*kind, rng.randbytes(rng.randrange(200))) for kind in kinds))


def odd_settings(rng: Rng) -> bytes:
    return b"".join(struct.pack(">HI", rng.randrange(9), rng.randrange(2**32)) for _ in range(30))


def long_headers(path: str, lines: int, size: int, *, ended: bool) -> bytes:
    more = (frame(CONTINUATION, 0, 1, header(f"x{line}", "y" * size)) for line in range(lines))
    last = frame(CONTINUATION, END_HEADERS, 1, b"") if ended else b""
    return begun(frame(HEADERS, 0, 1, headers_of(path)), *more, last)


def reset_streams(rng: Rng, paths: Sequence[str]) -> bytes:
    """What "rapid reset" was: each stream is opened, and given up at once."""
    opened = ((stream, headers_of(rng.choice(paths))) for stream in range(1, 400, 2))
    cancel = struct.pack(">I", 8)
    return begun(
        *(frame(HEADERS, END_HEADERS, stream, named) + frame(RST, 0, stream, cancel) for stream, named in opened)
    )


def shut_window(rng: Rng, paths: Sequence[str]) -> bytes:
    """It asks, and lets nobody answer."""
    return begun(
        frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)),
        frame(HEADERS, END_HEADERS, 1, headers_of(rng.choice(paths))),
        frame(DATA, END_STREAM, 1, message(b"")),
    )


Made = Callable[[Rng, Sequence[str]], bytes]
OTHERS = (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"SSH-2.0\r\n")
PATHS = ("/", "", "x", "//", "/a/b/c", "/%00", "*")
TIMEOUTS = ("-1S", "S", "99999999999H", "0n", "1x", "\x00")

# What is wrong with HTTP/2.
FRAMES: dict[str, Made] = {
    "noise": lambda rng, _: rng.randbytes(rng.randrange(1, 4_000)),
    "nothing": lambda _, __: b"",
    "another protocol": lambda rng, _: rng.choice(OTHERS),
    "half a preface": lambda rng, _: PREFACE[: rng.randrange(len(PREFACE))],
    "noise after the preface": lambda rng, _: PREFACE + rng.randbytes(rng.randrange(1, 4_000)),
    "noise in frames": lambda rng, _: junk_frames(rng),
    "a frame that is longer than it says": lambda rng, _: begun(frame(DATA, 0, 1, b"x" * 50, rng.randrange(40))),
    "a frame without an end": lambda _, __: begun(frame(HEADERS, END_HEADERS, 1, b"", 2**24 - 1)),
    "broken headers": lambda rng, _: begun(frame(HEADERS, END_HEADERS, 1, rng.randbytes(rng.randrange(1, 300)))),
    "headers without an end": lambda _, paths: long_headers(paths[0], 200, 500, ended=False),
    "headers that are too large": lambda _, paths: long_headers(paths[0], 20, 8_000, ended=True),
    "data of no stream": lambda rng, _: begun(frame(DATA, END_STREAM, rng.randrange(1, 99), b"x")),
    "a stream of the server's": lambda _, paths: begun(frame(HEADERS, END_HEADERS, 2, headers_of(paths[0]))),
    "a push": lambda rng, _: begun(frame(PUSH, END_HEADERS, 1, rng.randbytes(30))),
    "settings that cannot be": lambda rng, _: begun(frame(SETTINGS, 0, 0, odd_settings(rng))),
    "a window that overflows": lambda _, __: begun(*(frame(WINDOW, 0, 0, struct.pack(">I", 2**31 - 1)) * 3,)),
    "a window that is shut": shut_window,
    "many pings": lambda rng, _: begun(*(frame(PING, 0, 0, rng.randbytes(8)) for _ in range(500))),
    "many streams that are reset": reset_streams,
    "priority of itself": lambda _, __: begun(frame(PRIORITY, 0, 1, struct.pack(">IB", 1, 0))),
    "goaway": lambda rng, paths: begun(
        frame(HEADERS, END_HEADERS, 1, headers_of(rng.choice(paths))), frame(GOAWAY, 0, 0, b"\x00" * 8)
    ),
}


# What is wrong with gRPC.
def said(changes: Callable[[Rng], dict[str, str]]) -> Made:
    """A call that is in order, but for its headers."""
    return lambda rng, paths: call(rng, paths, message(b""), **changes(rng))


def sent(content: Callable[[Rng], bytes], **changes: str) -> Made:
    """A call that is in order, but for its message."""
    return lambda rng, paths: call(rng, paths, content(rng), **changes)


CALLS: dict[str, Made] = {
    "no message": sent(lambda _: b""),
    "half a message": sent(lambda _: message(b"xyz", length=100)),
    "half a length": sent(lambda _: b"\x00\x00\x00"),
    "a message of 4 GiB": sent(lambda _: message(b"x" * 100, length=2**32 - 1)),
    "two messages": sent(lambda _: message(b"") * 2),
    "compressed by nothing": sent(lambda _: message(b"xyz", flag=1)),
    "compressed badly": sent(lambda rng: message(rng.randbytes(90), flag=1), **{"grpc-encoding": "gzip"}),
    "compressed unheard of": sent(lambda _: message(b"x", flag=1), **{"grpc-encoding": "zip"}),
    "a flag that is none": sent(lambda rng: message(b"", flag=rng.randrange(2, 256))),
    "no protobuf": sent(lambda rng: message(rng.randbytes(rng.randrange(1, 500)))),
    "protobuf within protobuf without end": sent(lambda _: message(b"\x0a" * 5_000)),
    "no method": said(lambda rng: {":path": rng.choice(PATHS)}),
    "a method that is none": said(lambda rng: {":path": f"/cellbook.v1.LedgerService/{rng.randrange(10**6)}"}),
    "GET": said(lambda _: {":method": "GET"}),
    "another content": said(lambda _: {"content-type": "text/html"}),
    "no content type": said(lambda _: {"content-type": MISSING}),
    "a timeout that is none": said(lambda rng: {"grpc-timeout": rng.choice(TIMEOUTS)}),
    "text that is no text": said(lambda rng: {"cellbook-principal": rng.choice(("\x00", "\x7f", "\u00e9"))}),
    "a token that is none": said(lambda rng: {"authorization": rng.choice(("Bearer", "Bearer a.b.c", "\x00"))}),
    "metadata in base64 that are none": said(lambda _: {"x-bin": "%%%"}),
    "a name in capitals": said(lambda _: {"Cellbook-Principal": "service/fuzz"}),
    "a header of the connection": said(lambda _: {"connection": "close"}),
}
BADLY = {**FRAMES, **CALLS}


def rounds(count: int, seed: int, paths: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Each in its turn, with what chance makes of it."""
    rng, names = random.Random(seed), list(BADLY)
    for number in range(count):
        name = names[number % len(names)]
        yield name, BADLY[name](rng, paths)


async def speak_badly(address: str, count: int, seed: int, paths: Sequence[str]) -> None:
    """`count` connections, each of which says one thing and listens for a moment. What they hear is no matter."""
    host, _, port = address.rpartition(":")
    left = rounds(count, seed, paths)

    async def client() -> None:
        for _, content in left:
            with suppress(OSError, TimeoutError):
                await _say(host, int(port), content)

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))


async def _say(host: str, port: int, content: bytes) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(content)
        await writer.drain()
        async with asyncio.timeout(PATIENCE_S / 20):
            while await reader.read(65_536):
                pass
    finally:
        writer.close()
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await writer.wait_closed()
