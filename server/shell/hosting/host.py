"""One gRPC server in this process: limits, health, reflection and an orderly end.

host = GrpcHost(settings, name="eu-west", guard=CallGuard(POLICIES, clock=clock))
await host.start([add_servicer(servicer, host.server)])
await host.run_until_signalled()
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cells.store.unusable import CannotServe
from server.shell.calls.connections import Connections
from server.shell.calls.guard import CallGuard
from server.shell.calls.limits import CALLS_RESERVED, CALLS_SHARED, WATCHERS_TIMES
from server.shell.calls.open_calls import OPEN_CALLS_MAX
from server.shell.calls.policy import BATCH_BYTES_MAX
from server.shell.files import write_durably
from server.shell.hosting.health_service import HealthService
from server.shell.hosting.keepalive import KEEPALIVE
from server.shell.hosting.process import told_to_end
from server.shell.identity.tls import Certificates
from server.shell.rpc import Handler
from server.shell.settings.addresses import Address, parse_address
from server.shell.settings.host import HostSettings

# The largest answer, a page of a thousand auctions, is well below.
RESPONSE_BYTES_MAX = 4 * 1024 * 1024
# Over one connection: for a router, which passes on calls of many clients, and for others.
CONNECTION_CALLS_MAX = 2_000
PUBLIC_CONNECTION_CALLS_MAX = 100
TURNED_AWAY_MAX = 2_000
# Calls wait in grpc until we accept them. Those that wait longer than this are dropped there, at no cost to us:
# under a flood all others would be late as well. If more than 1,000 wait, grpc drops some at once.
UNACCEPTED_MAX_S = 1
_HANDSHAKE_MS = 10_000
# How long `stop` may take beyond the grace: grpc can hang there (grpc/grpc#40989).
_STOP_SLACK_S = 5.0
# Connections end now and then, so that no channel stays with one process forever. Open streams go on.
_CONNECTION_AGE_MS = 10 * 60 * 1_000

# The health service's name for the process itself: SERVING once it is ready, whether it leads or stands by.
PROCESS = "cellbook.Process"

log = structlog.get_logger()


class ListenFailed(CannotServe):
    """The server could not listen; the message names the address and what to do."""


class ServerEnded(CannotServe):
    """The server has ended by itself and can answer no more calls."""


class Listeners(grpc.aio.Server):
    """The servers of one process, one for each of its listeners, as one: what generated code adds is added to each.

    gRPC counts connections, waiting calls and calls under way per server: load on the public listener uses none of the
    capacity for cells and operators, who connect to the other one.

    Services in `lanes` are registered per method.

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


class GrpcHost:
    """A gRPC server named `name`; `server` takes the servicers before `start`.

    Calls of the services in `lanes` are accepted beside all others, not behind them. With `certificates` calls are
    encrypted, and every client of `listen` needs a certificate too.
    """

    def __init__(
        self,
        settings: HostSettings,
        *,
        name: str,
        guard: CallGuard,
        lanes: AbstractSet[str] = frozenset(),
        certificates: Certificates | None = None,
    ) -> None:
        self.name = name
        streams = (CONNECTION_CALLS_MAX, *([PUBLIC_CONNECTION_CALLS_MAX] if settings.public_listen else []))
        servers = [
            grpc.aio.server(
                interceptors=[guard],
                options=_server_options(settings.connections_max, calls_of_one),
                maximum_concurrent_rpcs=calls_max(settings),
            )
            for calls_of_one in streams
        ]
        self.server = Listeners(servers, lanes)
        self._certificates = certificates
        self._connections = guard.connections = Connections(of_one_max=settings.address_connections_max)
        self.address: Address | None = None
        self.public_address: Address | None = None
        # Further entries of the ready file: name -> text.
        self.tells: dict[str, str] = {}
        self._settings = settings
        self._guard = guard
        self._health = HealthService()
        self._health_names: tuple[str, ...] = ("",)
        self._ready = False
        self._ending = asyncio.Event()
        self._hurrying = asyncio.Event()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)

    async def start(self, services: Sequence[str], *, serving: bool = True, ready: bool = True) -> None:
        """Listens, and writes the ready file. `services` are the full names of those added to `server`.

        A standby passes serving=False: it listens, and reports that it must not be used. With ready=False
        `tell_ready` writes the ready file later.

        Raises:
            ListenFailed: the address is taken, or open to other machines while calls are in plain text.
        """
        wanted = parse_address(self._settings.listen)
        if self._certificates is None and not wanted.is_loopback and not self._settings.insecure_listen:
            raise ListenFailed(
                f"listen: {wanted} can be reached from elsewhere and calls travel in plain text: listen on 127.0.0.1, "
                "set tls_cert, tls_key and tls_ca, or insecure_listen=true where the network is trusted"
            )
        in_development = self._certificates is None and wanted.is_loopback
        if in_development if self._settings.reflection is None else self._settings.reflection:
            names = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self.server)
        address = self._listen(0, "listen", wanted, client_certificates=True)
        if self._settings.public_listen:
            public = parse_address(self._settings.public_listen)
            self.public_address = self._listen(1, "public_listen", public, client_certificates=False)
        self._health_names = ("", *services)
        self.set_serving(serving=serving)
        self._health.set([PROCESS], serving=False)
        await self.server.start()
        self._connections.background.start()
        self.address = address
        log.info("listening", address=str(self.address))
        if ready:
            await self.tell_ready()

    def _listen(self, which: int, setting: str, wanted: Address, *, client_certificates: bool) -> Address:
        server = self.server.servers[which]
        try:
            if self._certificates is None:
                port = server.add_insecure_port(str(wanted))
            else:
                credentials = self._certificates.server_credentials(client_certificates=client_certificates)
                port = server.add_secure_port(str(wanted), credentials)
        except RuntimeError:
            # grpc's own text only adds how to get more of its log.
            raise ListenFailed(
                f"{setting}: cannot listen on {wanted}: another process uses it, or it is no address of this machine: "
                "end that process, or choose another address"
            ) from None
        self._connections.ports.add(port)
        return Address(wanted.host, port)

    async def tell_ready(self) -> None:
        """Writes the ready file, unless the server has been told to end in the meantime."""
        self._health.set([PROCESS], serving=True)
        self._ready = True
        if self._settings.ready_file is not None and self.address is not None and not self._ending.is_set():
            public = {"public": str(self.public_address)} if self.public_address is not None else {}
            content = {"pid": os.getpid(), "address": str(self.address), "name": self.name, **public, **self.tells}
            write_durably(self._settings.ready_file, json.dumps(content).encode() + b"\n")

    def set_serving(self, *, serving: bool) -> None:
        """Sets what the health service reports, for the server and each service."""
        self._health.set(self._health_names, serving=serving)

    def end(self) -> None:
        """Makes `run_until_signalled` return, as a signal does; a second call stops the server at once."""
        if self._ending.is_set():
            self._hurrying.set()
        self._ending.set()

    @property
    def ending(self) -> bool:
        return self._ending.is_set()

    def unready(self) -> str:
        """Why the server cannot serve; empty: it can."""
        if self.ending:
            return "it is shutting down"
        return "" if self._ready else "it is starting"

    async def drained_for(self, seconds: float) -> None:
        """Returns `seconds` after the server was told to end."""
        await self._ending.wait()
        await asyncio.sleep(seconds)

    async def run_until_signalled(self) -> None:
        """Serves until SIGTERM, SIGINT or `end`, then shuts down in order; a second signal stops it at once.

        Raises:
            ServerEnded: the server has ended by itself.
        """
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, self.end)
        try:
            await self._asked_to_end()
            told_to_end.get()()
            await self.stop()
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    async def _asked_to_end(self) -> None:
        # Not cancelled: grpc would take that for the server's end, and `stop` would not wait for calls.
        ends = [asyncio.ensure_future(server.wait_for_termination()) for server in self.server.servers]
        asked = asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait((*ends, asked), return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()
        if not self._ending.is_set():
            self._ending.set()
            raise ServerEnded(f"listen: the server at {self.address} has ended unasked: start this process again")

    async def stop(self) -> None:
        """Reports NOT_SERVING, takes no new calls, gives running ones drain_grace_ms to end, and cancels the rest."""
        log.info("stopping")
        if self._settings.ready_file is not None:
            self._settings.ready_file.unlink(missing_ok=True)
        self._health.end()
        await self._connections.background.stop()
        grace_s = self._settings.drain_grace_ms / 1_000
        stopping = asyncio.ensure_future(self.server.stop(grace_s))
        self._guard.streams.end_all()
        hurried = asyncio.ensure_future(self._hurrying.wait())
        await asyncio.wait((stopping, hurried), timeout=grace_s + _STOP_SLACK_S, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not stopping.done():
            log.warning("stopped_in_haste")
            stopping.cancel()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STOP_SLACK_S):
                    await self.server.stop(None)


def add_servicer(servicer: object, server: grpc.aio.Server) -> str:
    """Adds it by the function that was generated with its base class. Returns the service's full name."""
    base = next(each for each in type(servicer).__mro__ if each.__module__.endswith("_pb2_grpc"))
    getattr(sys.modules[base.__module__], f"add_{base.__name__}_to_server")(servicer, server)
    return f"cellbook.v1.{base.__name__.removesuffix('Servicer')}"


def calls_max(settings: HostSettings) -> int:
    """The calls that gRPC admits at one listener: those within the budgets, and those being turned away."""
    budgets = CALLS_SHARED + CALLS_RESERVED + 2 * (1 + WATCHERS_TIMES) * settings.streams_max
    return budgets + OPEN_CALLS_MAX * settings.connections_max + TURNED_AWAY_MAX


def _server_options(connections_max: int, connection_calls_max: int) -> list[tuple[str, int]]:
    return [
        # Beyond this, new connections are closed at once.
        ("grpc.max_allowed_incoming_connections", connections_max),
        # Per connection; a client holds back further calls until there is room.
        ("grpc.max_concurrent_streams", connection_calls_max),
        # The largest of all methods; each method has its own limit in the policy table.
        ("grpc.max_receive_message_length", BATCH_BYTES_MAX),
        ("grpc.max_send_message_length", RESPONSE_BYTES_MAX),
        # Until TLS and HTTP/2 have been negotiated.
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        # A second process on the same port must fail instead of taking half of the calls.
        ("grpc.so_reuseport", 0),
        *KEEPALIVE,
        # Clients ping every 3 s, which must not count as an attack.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 2_000),
        # grpc counts some of these pings as strikes anyway, and a GOAWAY would cut calls of a healthy peer.
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.max_connection_age_ms", _CONNECTION_AGE_MS),
        ("grpc.server_max_unrequested_time_in_server", UNACCEPTED_MAX_S),
    ]
