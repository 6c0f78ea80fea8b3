"""The gRPC servers of one process, one for each of its listeners, which take the same services.

gRPC counts connections, waiting calls and calls under way per server: load on the public listener uses none of the
capacity for cells and operators, who connect to the other one.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import grpc
import grpc.aio

from server.shell.rpc import Handler


class Listeners(grpc.aio.Server):
    """Acts as one server: what generated code adds is added to each. Services in `lanes` are registered per method.

    A registered method is a lane of its own, but at every incoming call grpc.aio waits anew for the next call of each
    lane: registering all methods took a fifth of the time of a unary command.
    """

    def __init__(self, servers: Sequence[grpc.aio.Server], lanes: AbstractSet[str]) -> None:
        self.servers = servers
        self._lanes = lanes

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[Any]) -> None:
        handlers = tuple(generic_rpc_handlers)
        for server in self.servers:
            server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Handler]) -> None:
        """Generated code calls this for each service; methods of services without a lane are found by name."""
        if service_name in self._lanes:
            for server in self.servers:
                server.add_registered_method_handlers(service_name, dict(method_handlers))

    def add_insecure_port(self, address: str) -> int:
        raise NotImplementedError(f"{address}: each server listens for itself")

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        raise NotImplementedError(f"{address}: each server listens for itself, with {server_credentials}")

    async def start(self) -> None:
        for server in self.servers:
            await server.start()

    async def stop(self, grace: float | None) -> None:
        await asyncio.gather(*(server.stop(grace) for server in self.servers))

    async def wait_for_termination(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - as of any server
        """True: not all of them have ended."""
        return any(await asyncio.gather(*(server.wait_for_termination(timeout) for server in self.servers)))
