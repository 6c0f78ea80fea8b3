"""Calls to other servers, each with our identity, our clock and a deadline."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import grpc.aio

from server.shell.calls.guard import ClockExchange
from server.shell.calls.policy import BATCH_BYTES_MAX
from server.shell.channels.channel_pool import ChannelPool, never_anew
from server.shell.channels.options import OWN_CONNECTIONS, PROXY_CONFIG, RECONNECT, SERVICE_CONFIG, name_option
from server.shell.hosting.host import RESPONSE_BYTES_MAX
from server.shell.hosting.keepalive import KEEPALIVE
from server.shell.identity.principal import PRINCIPAL_KEY, Principal, Role
from server.shell.identity.tls import Certificates
from server.shell.observability.tracing import nothing_outgoing
from server.shell.settings.addresses import target_of

Request = TypeVar("Request")
Response = TypeVar("Response")

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
