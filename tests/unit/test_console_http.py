"""Connections to the console that ask for nothing: over real sockets, closed in time."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from lab.member import free_ports
from server.console.__main__ import Server
from server.console.http import ImpatientProtocol

WAITS_S = 10.0
ASKED = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n"


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """A server that waits for a request for a moment only, and takes longer to answer one."""
    monkeypatch.setattr(ImpatientProtocol, "REQUEST_S", 0.3)

    async def slow(_request: Request) -> Response:
        await asyncio.sleep(0.6)
        return PlainTextResponse("done")

    (free,) = free_ports(1)
    app = Starlette(routes=[Route("/", slow)])
    server = Server(uvicorn.Config(app, http=ImpatientProtocol, port=free, log_config=None, timeout_keep_alive=60))
    started = asyncio.Event()
    server.on_started = started.set
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve())
        await asyncio.wait_for(started.wait(), WAITS_S)
        yield free
        server.should_exit = True
        await serving


async def closed(port: int, *parts: bytes) -> bytes:
    """All that is answered until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        await writer.drain()
    answer = await asyncio.wait_for(reader.read(), WAITS_S)
    writer.close()
    return answer


async def test_a_connection_that_asks_for_nothing_is_closed(port: int) -> None:
    """Whether it is silent or has sent a part of its headers."""
    assert await closed(port) == b""
    assert await closed(port, ASKED[:20]) == b""


async def test_headers_that_come_one_by_one_are_not_waited_for(port: int) -> None:
    """Each part comes in time, and the whole does not."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def trickle() -> None:
        for number in range(1_000):
            writer.write(b"GET / HTTP/1.1\r\n" if not number else b"x: y\r\n")
            await writer.drain()
            await asyncio.sleep(0.1)

    trickling = asyncio.create_task(trickle())
    assert await asyncio.wait_for(reader.read(), WAITS_S) == b""
    trickling.cancel()
    writer.close()


async def test_an_answer_may_take_its_time(port: int) -> None:
    """The wait is for requests; afterwards the next one is waited for, and no longer than the first."""
    answer = await closed(port, ASKED)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"done")
