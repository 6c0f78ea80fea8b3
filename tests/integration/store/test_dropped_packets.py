"""Packets that the kernel drops: neither side acknowledges what the other sends, and neither is told.

The time-outs of statements are tried in test_forgotten_connections.py, where what stands in between acknowledges
everything. Here only the kernel can find out, by its keepalive and the bound on unacknowledged data, on both sides.
"""

import asyncio
import ctypes
import os
import socket
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from uuid import uuid4

import asyncpg
import grpc.aio
import pytest

from cellbook.v1 import event_pb2
from lab.chaos.links import Way
from lab.listener import Listener
from server.shell.channels.client import open_cell_channel, open_channel
from server.shell.postgres import database
from server.shell.postgres.database import Connection
from server.shell.postgres.embedded import PORT, EmbeddedPostgres
from tests.integration.database import ask
from tests.integration.router.rig import cells, new_user, router
from tests.integration.shell.shell_host import SERVICE, running
from tests.integration.wire import Wire
from tests.local_cells import until, until_async

FOUND_S = 10.0
# Linux: a filter of a socket that lets no byte of any packet through.
_ATTACH_FILTER, _RETURN_NOTHING = 26, struct.pack("HBBI", 0x06, 0, 0, 0)


def drop_all(connection: socket.socket) -> None:
    """From now on no packet comes in here: what the other side sends is not even acknowledged."""
    program = ctypes.create_string_buffer(_RETURN_NOTHING)
    connection.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))


class Firewall:
    """Carries TCP connections to `target`; `drop` ends all packets of those that there are."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._ends: list[asyncio.StreamWriter] = []

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """The port."""
        async with Listener(self._joined) as listener:
            yield int(listener.address.rpartition(":")[2])

    def pause(self) -> None:
        """Carries nothing any more, but what comes is still acknowledged."""
        for end in self._ends:
            end.transport.pause_reading()  # type: ignore[attr-defined]

    def drop(self) -> None:
        for end in self._ends:
            found = end.get_extra_info("socket")
            # A copy of asyncio's own, which has no such option.
            with socket.socket(fileno=os.dup(found.fileno())) as own:
                drop_all(own)

    async def _joined(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._ends += [writer, far_writer]
        try:
            await asyncio.gather(self._carried(reader, far_writer), self._carried(far_reader, writer))
        finally:
            far_writer.transport.abort()

    async def _carried(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()


@pytest.fixture
async def far(postgres: EmbeddedPostgres) -> AsyncIterator[tuple[str, Firewall]]:
    """The DSN of the server over TCP, beyond a firewall."""
    # Its port is fixed, but a machine has many addresses of its own.
    address = f"127.{os.getpid() % 200 + 1}.{os.getpid() // 200 % 250}.2"
    await ask(postgres.dsn("postgres"), f"ALTER SYSTEM SET listen_addresses = '{address}'")
    await postgres.stop()
    await postgres.start()
    firewall = Firewall((address, PORT))
    async with firewall.listening() as port:
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres", firewall


async def connected(dsn: str, application: str) -> Connection:
    return await database.connect(dsn, role="postgres", application=application, command_timeout_s=None)


@pytest.mark.skipif(sys.platform != "linux", reason="filters of sockets are Linux's")
async def test_the_kernels_of_both_sides_find_a_dead_session(
    postgres: EmbeddedPostgres, far: tuple[str, Firewall]
) -> None:
    """Idle or in the middle of sending, by either side, each within 10 s: all of them at once."""
    dsn, firewall = far
    idle, asking, sending = [await connected(dsn, name) for name in ("idle", "asking", "sending")]
    answer = asyncio.ensure_future(sending.fetch("SELECT repeat('x', 1000) FROM generate_series(1, 10000000)"))

    async def waits() -> bool:
        # Nobody reads what the server sends: once there is room for no more of it, it waits.
        firewall.pause()
        return bool(await ask(postgres.dsn("postgres"), WAITS_TO_SEND))

    await until_async(lambda: ask(postgres.dsn("postgres"), SENDS))
    await until_async(waits)
    firewall.drop()
    asked = asyncio.ensure_future(asking.fetchval("SELECT 1"))

    async def sessions() -> list[str]:
        return [name for (name,) in await ask(postgres.dsn("postgres"), SESSIONS)]

    async def found() -> bool:
        return idle.is_closed() and asked.done() and not await sessions()

    with suppress(TimeoutError):
        await until_async(found, timeout_s=FOUND_S)
    alive = {"idle here": not idle.is_closed(), "asking here": not asked.done()}
    left = [name for name, is_alive in alive.items() if is_alive] + [f"{name} there" for name in await sessions()]
    assert left == []
    for task in (asked, answer):
        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)):
            await asyncio.wait_for(task, FOUND_S)


SENDS = "SELECT FROM pg_stat_activity WHERE application_name = 'sending' AND state = 'active' AND query LIKE '%repeat%'"
SESSIONS = "SELECT application_name FROM pg_stat_activity WHERE application_name IN ('idle', 'asking', 'sending')"
WAITS_TO_SEND = "SELECT FROM pg_stat_activity WHERE application_name = 'sending' AND wait_event = 'ClientWrite'"


async def test_a_query_whose_client_has_gone_ends(postgres: EmbeddedPostgres) -> None:
    """It would hold its locks for as long as it takes."""
    gone = await connected(postgres.dsn("postgres"), "gone")
    query = asyncio.ensure_future(gone.execute("SELECT pg_sleep(600)"))

    async def runs() -> bool:
        where = "application_name = 'gone' AND wait_event = 'PgSleep'"
        return bool(await ask(postgres.dsn("postgres"), f"SELECT FROM pg_stat_activity WHERE {where}"))

    await until_async(runs)
    gone.terminate()
    await until_async(runs, lambda found: not found, timeout_s=FOUND_S)
    await asyncio.gather(query, return_exceptions=True)


async def test_a_router_finds_another_session(postgres: EmbeddedPostgres) -> None:
    """Its directory answers again within 10 s, though what stands in between closes nothing and acknowledges all."""
    name, wire = f"router_{uuid4().hex}", Wire()
    await postgres.ensure_database(name)
    async with (
        wire.listening(postgres.dsn(name)) as dsn,
        cells("us-east=us") as fakes,
        router(dsn, fakes) as client,
    ):
        await client.register(new_user())
        wire.forget()

        async def registered() -> bool:
            try:
                await client.register(new_user(), timeout_s=FOUND_S)
            except grpc.aio.AioRpcError:
                return False
            return True

        await until_async(registered, timeout_s=FOUND_S)


@pytest.mark.parametrize("kind", ["peer", "router"])
async def test_a_server_ends_the_calls_of_a_client_that_is_gone(tmp_path: Path, kind: str) -> None:
    """It would hold a stream, and its share of what there is room for, for as long as nothing is to be sent."""
    way = Way()
    await way.listen()
    async with running(tmp_path) as shell:
        way.target = str(shell.host.address)
        shell.events.wait = True
        async with open_channel(way.address) if kind == "peer" else open_cell_channel([way.address]) as channel:
            stream = channel.unary_stream(
                "/cellbook.v1.EventService/Subscribe",
                request_serializer=event_pb2.SubscribeRequest.SerializeToString,
                response_deserializer=event_pb2.SubscribeResponse.FromString,
            )(event_pb2.SubscribeRequest(), metadata=SERVICE)
            await stream.read()
            way.forget()
            await until(shell.events.closed.is_set, timeout_s=FOUND_S)
            stream.cancel()
    await way.close()
