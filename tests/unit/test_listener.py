"""What a TCP server of ours leaves when it is closed."""

import asyncio
import socket
from contextlib import suppress

import pytest

from lab.listener import Listener

TIMEOUT_S = 5.0


@pytest.mark.parametrize("turns", range(6))
async def test_no_connection_outlives_the_server(turns: int) -> None:
    """Whether it is in its queue, being accepted or served when the server closes, so many turns of the loop later."""

    async def idle(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with Listener(idle) as listener:
        host, _, port = listener.address.rpartition(":")
        client = socket.create_connection((host, int(port)))
        for _turn in range(turns):
            await asyncio.sleep(0)
    with client:
        client.settimeout(0)
        async with asyncio.timeout(TIMEOUT_S):
            with suppress(ConnectionResetError):
                assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
