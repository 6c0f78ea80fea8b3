"""The smart client: one object with the stubs of every service, each call straight to the right cell.

    async with Client("127.0.0.1:7400", principal="service/shop") as client:
        await client.router.RegisterUser(RegisterUserRequest(user_id=user, region="eu"))
        await client.ledger.Deposit(DepositRequest(..))
        OtherServiceStub(client.channel)       # any stub of cellbook.v1

If the cells require proof of identity, `tls` are the client's certificate files, and `token` is a token, or a function
that returns the current one: `Client(router, tls=TlsFiles(cert, key, ca), token=read_token)`. The token identifies the
caller.

It asks the router once for a user's home, follows WRONG_CELL and users who have moved, watches cells come and go,
finds the process that leads a cell, sends each item of a batch to its own cell, and keeps working with all known
locations while the router is away. Calls and errors are those of grpc.aio. docs/router.md has the cost of each way.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from cellbook.v1.auction_pb2_grpc import AuctionServiceStub
from cellbook.v1.event_pb2_grpc import EventServiceStub
from cellbook.v1.ledger_pb2_grpc import LedgerServiceStub
from cellbook.v1.router_pb2_grpc import RouterServiceStub
from cellbook.v1.saga_pb2_grpc import SagaServiceStub
from cells.background import BackgroundTask
from router.batches import Answer, Batch, UnaryCall, is_batch
from router.location_cache import KnownHome, LocationCache
from router.routes import ROUTES, RoutingTarget, is_for_cells, method_of, named_in, no_routing_target, routing_target_of
from server.shell.channels.channel_pool import ChannelPool
from server.shell.channels.client import open_cell_channel
from server.shell.fields.spelling import spelled
from server.shell.identity.callers import TOKEN_KEY
from server.shell.identity.principal import PRINCIPAL_KEY
from server.shell.identity.tls import Certificates, TlsFiles
from server.shell.settings.addresses import target_of

if TYPE_CHECKING:
    from cellbook.v1.auction_pb2_grpc import AuctionServiceAsyncStub
    from cellbook.v1.event_pb2_grpc import EventServiceAsyncStub
    from cellbook.v1.ledger_pb2_grpc import LedgerServiceAsyncStub
    from cellbook.v1.router_pb2_grpc import RouterServiceAsyncStub
    from cellbook.v1.saga_pb2_grpc import SagaServiceAsyncStub

# For calls without a deadline: a takeover takes up to 3 s, and a call waits for it.
TIMEOUT_S = 10.0
# Users do not move as fast as this client follows.
HOPS_MAX = 3

Details: TypeAlias = grpc.aio.ClientCallDetails
# Quoted, because it is generic only for the type checker.
StreamCall: TypeAlias = "grpc.aio.UnaryStreamCall[Any, Any]"


class Client:
    """`router`: its address or addresses. `metadata` is sent with every call, besides the principal.

    Raises TlsInvalid.
    """

    def __init__(
        self,
        router: str | Sequence[str],
        *,
        principal: str = "",
        metadata: Sequence[tuple[str, str]] = (),
        tls: TlsFiles | None = None,
        token: str | Callable[[], str] = "",
    ) -> None:
        said = (*(((PRINCIPAL_KEY, principal),) if principal else ()), *metadata)
        identity = _Identity(said, token)
        routers = (router,) if isinstance(router, str) else tuple(router)
        certificates = Certificates(tls) if tls is not None else None
        self._locations = LocationCache(routers=routers, metadata=identity.metadata, places=_places(certificates))
        calls = _Calls(self._locations, identity.metadata)
        # No call of cellbook.v1 uses this connection: each is intercepted, and sent to its cell or to the router.
        self.channel = grpc.aio.insecure_channel(target_of(routers), interceptors=[_Unary(calls), _Streams(calls)])
        self.router: RouterServiceAsyncStub = RouterServiceStub(self.channel)
        self.ledger: LedgerServiceAsyncStub = LedgerServiceStub(self.channel)
        self.auctions: AuctionServiceAsyncStub = AuctionServiceStub(self.channel)
        self.sagas: SagaServiceAsyncStub = SagaServiceStub(self.channel)
        self.events: EventServiceAsyncStub = EventServiceStub(self.channel)
        self._watching = BackgroundTask(name="topology", work=self._locations.watch)

    async def __aenter__(self) -> Self:
        self._watching.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._watching.stop()
        await self._locations.close()
        await self.channel.close()

    async def home(self, user_id: str) -> KnownHome:
        """The user's home, without network access if it is known. Raises AioRpcError."""
        return await self._locations.home(spelled(user_id))


@dataclass(frozen=True, slots=True)
class _Identity:
    said: Sequence[tuple[str, str]]
    token: str | Callable[[], str]

    def metadata(self) -> Sequence[tuple[str, str]]:
        token = self.token if isinstance(self.token, str) else self.token()
        return (*self.said, (TOKEN_KEY, f"Bearer {token}")) if token else self.said


def _places(certificates: Certificates | None) -> ChannelPool:
    if certificates is None:
        return ChannelPool(open_channel=open_cell_channel)
    return ChannelPool(
        open_channel=lambda endpoints: open_cell_channel(endpoints, credentials=certificates.channel_credentials()),
        generation=certificates.renewed,
    )


class _Calls:
    """Sends calls of the cells' services to their cells; all others go to the router."""

    def __init__(self, locations: LocationCache, identity: Callable[[], Sequence[tuple[str, str]]]) -> None:
        self._locations = locations
        self._identity = identity

    def completed(self, details: Details, timeout_s: float | None) -> Details:
        """The details with identity and deadline added."""
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        for key, value in self._identity():
            if metadata.get(key) is None:
                metadata.add(key, value)
        return Details(details.method, timeout_s, metadata, details.credentials, details.wait_for_ready)

    async def unary(self, details: Details, request: Message) -> Answer:
        sending = _Sending(self._locations, details)
        if not is_for_cells(sending.method):
            return sending.over(self._locations.router(), request)
        named = named_in(details.metadata)
        if named is None and sending.method in ROUTES and is_batch(request):
            batch = Batch(
                finder=self._locations, method=sending.method, path=ROUTES[sending.method].path, send=sending.to
            )
            return await batch.answered(request)
        target = named or routing_target_of(sending.method, request)
        if target is not None and target.user_id:
            return await self._to_home(sending, target.user_id, request)
        return await sending.to(await self._cell(sending.method, target), request)

    async def stream(self, details: Details, request: Message) -> StreamCall:
        """Opens the stream at the current home: a stream that has begun does not move."""
        sending = _Sending(self._locations, details)
        if not is_for_cells(sending.method):
            return sending.stream_over(self._locations.router(), request)
        target = named_in(details.metadata) or routing_target_of(sending.method, request)
        if target is not None and target.user_id:
            target = RoutingTarget(cell=(await self._locations.home(target.user_id)).cell)
        cell = await self._cell(sending.method, target)
        return sending.stream_over(await self._locations.channel(cell), request)

    async def _to_home(self, sending: "_Sending", user_id: str, request: Message) -> UnaryCall:
        home = await self._locations.home(user_id)
        for _ in range(HOPS_MAX):
            call = await sending.to(home.cell, request)
            try:
                await call
            except grpc.aio.AioRpcError as error:
                moved = await self._locations.corrected(user_id, home, error)
                if moved is None:
                    break
                home = moved
            else:
                break
        # The caller awaits it again and gets the same result.
        return call

    async def _cell(self, method: str, target: RoutingTarget | None) -> str:
        if target is not None:
            return target.cell
        if method in ROUTES:
            # The request names no existing user or resource; any cell explains what is wrong with it.
            return await self._locations.any_cell()
        nothing = grpc.aio.Metadata()
        raise grpc.aio.AioRpcError(
            grpc.StatusCode.INVALID_ARGUMENT,
            nothing,
            nothing,
            no_routing_target(method),
        )


class _Sending:
    """One call, sent as often as needed."""

    def __init__(self, locations: LocationCache, details: Details) -> None:
        self.method = _text(details.method)
        self._locations = locations
        self._details = details
        self._deadline_s = time.monotonic() + (details.timeout or 0.0)

    async def to(self, cell: str, request: Message) -> UnaryCall:
        return self.over(await self._locations.channel(cell), request)

    def over(self, channel: grpc.aio.Channel, request: Message) -> UnaryCall:
        method = channel.unary_unary(
            self.method, request_serializer=_serialized, response_deserializer=_reader(self.method)
        )
        return method(request, timeout=self._left_s(), **self._how())

    def stream_over(self, channel: grpc.aio.Channel, request: Message) -> StreamCall:
        method = channel.unary_stream(
            self.method, request_serializer=_serialized, response_deserializer=_reader(self.method)
        )
        return method(request, timeout=self._details.timeout, **self._how())

    def _left_s(self) -> float:
        return max(self._deadline_s - time.monotonic(), 0.0)

    def _how(self) -> dict[str, Any]:
        details = self._details
        return {
            "metadata": details.metadata,
            "credentials": details.credentials,
            "wait_for_ready": details.wait_for_ready,
        }


class _Unary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, calls: _Calls) -> None:
        self._calls = calls

    async def intercept_unary_unary(  # type: ignore[override]
        self,
        _continuation: Callable[[Details, Message], Awaitable[UnaryCall]],
        client_call_details: Details,
        request: Message,
    ) -> Answer:
        timeout_s = client_call_details.timeout
        details = self._calls.completed(client_call_details, TIMEOUT_S if timeout_s is None else timeout_s)
        return await self._calls.unary(details, request)


class _Streams(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, calls: _Calls) -> None:
        self._calls = calls

    async def intercept_unary_stream(  # type: ignore[override]
        self,
        _continuation: Callable[[Details, Message], Awaitable[StreamCall]],
        client_call_details: Details,
        request: Message,
    ) -> StreamCall:
        # No default deadline: a subscription has no end.
        details = self._calls.completed(client_call_details, client_call_details.timeout)
        return await self._calls.stream(details, request)


def _text(method: str | bytes) -> str:
    return method.decode() if isinstance(method, bytes) else method


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()


@lru_cache(maxsize=256)
def _reader(method: str) -> Callable[[bytes], Message]:
    """The parser for answers of a method whose stub has been imported."""
    descriptor = method_of(method)
    if descriptor is None:
        raise LookupError(f"no stub of {method} has been imported")
    read: Callable[[bytes], Message] = GetMessageClass(descriptor.output_type).FromString
    return read
