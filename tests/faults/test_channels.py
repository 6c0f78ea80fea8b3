"""Whoever opens channels to a cell outlives it."""

import asyncio
import subprocess
import sys
from collections.abc import Sequence

import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from server.shell.channels.client import open_cell_channel, open_peer_channel
from server.shell.channels.options import PROXY_CONFIG

READY_S = 30.0
AT_ONCE = 8
# Where the channels share their connections it is over within the first hundred or two.
ROUNDS = 1_000

pytestmark = [pytest.mark.faults, pytest.mark.slow]


async def run(rounds: int) -> None:
    server, servicer = grpc.aio.server(), health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    for _ in range(rounds):
        # Of one kind: others have connections of their own anyway.
        for opened in (open_cell_channel, proxied, open_peer_channel):
            await together([opened([address, address]) for _ in range(AT_ONCE)])
    await server.stop(None)
    print("alive")


def proxied(endpoints: Sequence[str]) -> grpc.aio.Channel:
    return open_cell_channel(endpoints, PROXY_CONFIG)


async def together(channels: list[grpc.aio.Channel]) -> None:
    for channel in channels:
        channel.get_state(try_to_connect=True)
    async with asyncio.timeout(READY_S):
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
    await asyncio.gather(*(channel.close() for channel in channels))


def test_channels_that_come_to_one_address_at_once_do_not_kill_the_process() -> None:
    """GRPC's core has a race between health checks over a shared connection: ours share none."""
    command = [sys.executable, "-m", "tests.faults.test_channels", str(ROUNDS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


if __name__ == "__main__":
    asyncio.run(run(int(sys.argv[1])))
