"""Calls to other servers, each with our identity, our clock and a deadline."""

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import grpc.aio

from server.shell.calls.guard import ClockExchange
from server.shell.calls.policy import BATCH_BYTES_MAX
from server.shell.channels.channel_pool import ChannelPool, never_anew
from server.shell.hosting.host import KEEPALIVE, RESPONSE_BYTES_MAX
from server.shell.identity.principal import PRINCIPAL_KEY, Principal, Role
from server.shell.identity.tls import Certificates
from server.shell.observability.tracing import nothing_outgoing
from server.shell.settings.addresses import parse_address, target_of

Request = TypeVar("Request")
Response = TypeVar("Response")

# Each channel has its own connections. By default gRPC lets two channels share one; if both start a health watch at the
# same moment, its core uses the state of one before it exists and the process dies of a SIGSEGV (grpcio 1.85.1 to
# 1.85.3, HealthWatcher::SetSubchannel; tests/faults/test_channels.py).
OWN_CONNECTIONS = ("grpc.use_local_subchannel_pool", 1)

# Reconnect soon after a cut, because sagas wait. `min` is the time limit of one attempt: packets of an attempt that
# is made into a cut are lost, and TCP would send the next one half a minute after the network is back.
RECONNECT: list[tuple[str, int]] = [
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]

# As docs/clients.md has it.
CELL_OPTIONS: list[tuple[str, int | str]] = [
    OWN_CONNECTIONS,
    ("grpc.max_send_message_length", BATCH_BYTES_MAX),
    ("grpc.max_receive_message_length", RESPONSE_BYTES_MAX),
    # Each side detects a silently dead connection within 6 s.
    *KEEPALIVE,
    *RECONNECT,
]
# Our own callers retry by themselves, because they know the command's id.
CHANNEL_OPTIONS = [*CELL_OPTIONS, ("grpc.enable_retries", 0)]

# For external clients, over all addresses of one cell at once (docs/clients.md). Calls go to a process whose health
# service says SERVING, and wait within their deadline while there is none: a standby takes over within 3 s. A call that
# was cut is sent again under its command_id, so it takes effect once; the retries together outlast a takeover.
SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": ""},
        "methodConfig": [
            {
                "name": [{}],
                "waitForReady": True,
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.5s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
                },
            }
        ],
    },
    indent=2,
)


# For a proxy: it finds the process that leads, and leaves retries to its caller.
PROXY_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}})


def open_channel(target: str, tls: Certificates | None = None) -> grpc.aio.Channel:
    """A channel to `target` ("host:port"), connected at the first call. To be closed by the caller."""
    return open_peer_channel((target,), tls)


def open_peer_channel(endpoints: Sequence[str], tls: Certificates | None = None) -> grpc.aio.Channel:
    """A channel to the process that leads a cell, out of all that serve it. To be closed by the caller."""
    found = [("grpc.service_config", PROXY_CONFIG)] if len(endpoints) > 1 else []
    return _opened(endpoints, [*CHANNEL_OPTIONS, *found], None if tls is None else tls.channel_credentials())


def open_cell_channel(
    endpoints: Sequence[str], config: str = SERVICE_CONFIG, credentials: grpc.ChannelCredentials | None = None
) -> grpc.aio.Channel:
    """A channel over all processes of one cell, by a service config. To be closed by the caller."""
    return _opened(endpoints, [*CELL_OPTIONS, ("grpc.service_config", config)], credentials)


def _opened(
    endpoints: Sequence[str], options: Sequence[tuple[str, int | str]], credentials: grpc.ChannelCredentials | None
) -> grpc.aio.Channel:
    target = target_of(endpoints)
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, credentials, options=[*options, *name_option(endpoints)])


def name_option(endpoints: Sequence[str]) -> list[tuple[str, str]]:
    """The processes of one cell all present the first one's host name: gRPC takes one name per channel."""
    return [("grpc.ssl_target_name_override", parse_address(endpoints[0]).host)] if len(endpoints) > 1 else []


def peer_channels(tls: Certificates | None) -> ChannelPool:
    """Channels for our own calls. To be closed."""
    return ChannelPool(
        open_channel=lambda endpoints: open_peer_channel(endpoints, tls),
        generation=never_anew if tls is None else tls.renewed,
    )


def cell_channels(tls: Certificates | None, config: str = PROXY_CONFIG) -> ChannelPool:
    """Channels to the processes that lead their cells, by default for calls that are passed on. To be closed."""

    def opened(endpoints: tuple[str, ...]) -> grpc.aio.Channel:
        return open_cell_channel(endpoints, config, None if tls is None else tls.channel_credentials())

    return ChannelPool(open_channel=opened, generation=never_anew if tls is None else tls.renewed)


class Caller:
    """Makes calls as `principal`. With `clock` it is a peer, which exchanges clocks with every call.

    `trace` returns the metadata that carry the current trace.
    """

    def __init__(
        self,
        principal: Principal,
        clock: ClockExchange | None = None,
        trace: Callable[[], Sequence[tuple[str, str]]] = nothing_outgoing,
    ) -> None:
        self._identity = ((PRINCIPAL_KEY, str(principal)),)
        self._clock = clock
        self._trace = trace

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        to: str,
        timeout_s: float,
    ) -> Response:
        """Calls `method` of the peer `to`, and takes in the peer's clock from answer and refusal alike.

        Raises:
            grpc.aio.AioRpcError: any status but OK; `statuses.refusal_from` tells whether it is definite.
            Refused: the clock in the answer was refused. Then the outcome is unknown, whatever the call answered.
        """
        call = method(request, timeout=timeout_s, metadata=self.metadata())
        try:
            response = await call
        except grpc.aio.AioRpcError as error:
            self._take_in(error.trailing_metadata(), to)
            raise
        if self._clock is not None:
            self._take_in(await call.trailing_metadata(), to)
        return response

    def metadata(self) -> Sequence[tuple[str, str]]:
        said = (*self._identity, *self._trace())
        return said if self._clock is None else (*said, *self._clock.outgoing())

    def _take_in(self, metadata: Any, peer: str) -> None:  # noqa: ANN401 - a Metadata or a tuple, by its origin
        if self._clock is not None and metadata:
            self._clock.received(tuple(metadata), Principal(role=Role.PEER, name=peer))
