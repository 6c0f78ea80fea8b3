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
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import Message

from cellbook.v1.auction_pb2_grpc import AuctionServiceStub
from cellbook.v1.event_pb2_grpc import EventServiceStub
from cellbook.v1.ledger_pb2_grpc import LedgerServiceStub
from cellbook.v1.router_pb2_grpc import RouterServiceStub
from cellbook.v1.saga_pb2_grpc import SagaServiceStub
from cells.background import BackgroundTask
from cells.domain.moves.home import Home
from cells.home_cache import HomeCache
from router.routing.batches import Batch, is_batch
from router.routing.routes import (
    ROUTES,
    RoutingTarget,
    is_for_cells,
    named_in,
    no_routing_target,
    routing_target_of,
)
from server.shell.calls.statuses import refusal_in
from server.shell.channels.client import cell_channels
from server.shell.channels.location_cache import LocationCache, failed
from server.shell.channels.options import SERVICE_CONFIG
from server.shell.fields.spelling import spelled
from server.shell.identity.principal import PRINCIPAL_KEY, TOKEN_KEY
from server.shell.identity.tls import Certificates, TlsFiles
from server.shell.rpc import answer_parser
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
# Quoted, because they are generic only for the type checker.
UnaryCall: TypeAlias = "grpc.aio.UnaryUnaryCall[Any, Any]"
StreamCall: TypeAlias = "grpc.aio.UnaryStreamCall[Any, Any]"
Answer: TypeAlias = "grpc.aio.UnaryUnaryCall[Any, Any] | Message"


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
        self._locations = LocationCache(
            routers=routers, caller=identity, channels=cell_channels(certificates, SERVICE_CONFIG)
        )
        self._calls = calls = _Calls(self._locations, identity)
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
        await self._calls.homes.close()
        await self._locations.close()
        await self.channel.close()

    async def home(self, user_id: str) -> Home:
        """The user's home, without network access if it is known. Raises AioRpcError."""
        return await self._calls.home(spelled(user_id))


@dataclass(frozen=True, slots=True)
class _Identity:
    said: Sequence[tuple[str, str]]
    token: str | Callable[[], str]

    def metadata(self) -> Sequence[tuple[str, str]]:
        token = self.token if isinstance(self.token, str) else self.token()
        return (*self.said, (TOKEN_KEY, f"Bearer {token}")) if token else self.said

    async def call(self, method: Any, request: Any, *, to: str, timeout_s: float) -> Any:  # noqa: ANN401, ARG002 - of any RPC
        """A call to the router."""
        return await method(request, timeout=timeout_s, metadata=self.metadata())


class _Calls:
    """Sends calls of the cells' services to their cells; all others go to the router."""

    def __init__(self, locations: LocationCache, identity: _Identity) -> None:
        self.homes = HomeCache(directory=locations, monotonic_s=time.monotonic)
        self.any_cell = locations.any_cell
        self._locations = locations
        self._identity = identity

    async def home(self, user_id: str) -> Home:
        """Raises AioRpcError: it is not known, and the router does not answer, or says that there is no such user."""
        home = await self.homes.home(user_id)
        if home is None:
            raise failed(grpc.StatusCode.NOT_FOUND, f"there is no user {user_id}")
        return home

    def sending(self, details: Details, timeout_s: float | None) -> "_Sending":
        """A call with identity and deadline added."""
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        for key, value in self._identity.metadata():
            if metadata.get(key) is None:
                metadata.add(key, value)
        details = Details(details.method, timeout_s, metadata, details.credentials, details.wait_for_ready)
        return _Sending(self._locations, details)

    async def unary(self, sending: "_Sending", request: Message) -> Answer:
        if not is_for_cells(sending.method):
            return sending.over(self._locations.router(), request)
        named = named_in(sending.metadata)
        if named is None and is_batch(sending.method):
            batch = Batch(finder=self, method=sending.method, send=sending.to)
            return await batch.answered(request, lambda cell: _whole(sending, cell, request))
        target = named or routing_target_of(sending.method, request)
        if target is not None and target.user_id:
            return await self._to_home(sending, target.user_id, request)
        return await sending.to(await self._cell(sending.method, target), request)

    async def stream(self, sending: "_Sending", request: Message) -> StreamCall:
        """Opens the stream at the current home: a stream that has begun does not move."""
        if not is_for_cells(sending.method):
            return sending.stream_over(self._locations.router(), request)
        target = named_in(sending.metadata) or routing_target_of(sending.method, request)
        if target is not None and target.user_id:
            target = RoutingTarget(cell=(await self.home(target.user_id)).cell)
        cell = await self._cell(sending.method, target)
        return sending.stream_over(await self._locations.channel(cell), request)

    async def _to_home(self, sending: "_Sending", user_id: str, request: Message) -> UnaryCall:
        home = await self.home(user_id)
        for _ in range(HOPS_MAX):
            call = await sending.to(home.cell, request)
            try:
                await call
                break
            except grpc.aio.AioRpcError as error:
                moved = await self._moved(user_id, home, error)
                if moved is None:
                    break
                home = moved
        # The caller awaits it again and gets the same result.
        return call

    async def _moved(self, user_id: str, tried: Home, error: grpc.aio.AioRpcError) -> Home | None:
        """None: the error stands, also if only the router could tell more."""
        try:
            return await self.homes.corrected(user_id, tried, refusal_in(error))
        except grpc.aio.AioRpcError:
            return None

    async def _cell(self, method: str, target: RoutingTarget | None) -> str:
        if target is not None:
            return target.cell
        if method in ROUTES:
            # The request names no existing user or resource; any cell explains what is wrong with it.
            return await self.any_cell()
        raise failed(grpc.StatusCode.INVALID_ARGUMENT, no_routing_target(method))


async def _whole(sending: "_Sending", cell: str, request: Message) -> tuple[UnaryCall, Sequence[Any]]:
    call = await sending.to(cell, request)
    try:
        return call, (await call).results
    except grpc.aio.AioRpcError:
        # The call raises its own error when it is awaited.
        return call, ()


class _Sending:
    """One call, sent as often as needed."""

    def __init__(self, locations: LocationCache, details: Details) -> None:
        self.method = _text(details.method)
        self.metadata = details.metadata
        self._locations = locations
        self._details = details
        self._deadline_s = time.monotonic() + (details.timeout or 0.0)

    async def to(self, cell: str, request: Message) -> UnaryCall:
        return self.over(await self._locations.channel(cell), request)

    def over(self, channel: grpc.aio.Channel, request: Message) -> UnaryCall:
        method = channel.unary_unary(self.method, _serialized, answer_parser(self.method))
        return method(request, timeout=max(self._deadline_s - time.monotonic(), 0.0), **self._how())

    def stream_over(self, channel: grpc.aio.Channel, request: Message) -> StreamCall:
        method = channel.unary_stream(self.method, _serialized, answer_parser(self.method))
        return method(request, timeout=self._details.timeout, **self._how())

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
        sending = self._calls.sending(client_call_details, TIMEOUT_S if timeout_s is None else timeout_s)
        return await self._calls.unary(sending, request)


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
        sending = self._calls.sending(client_call_details, client_call_details.timeout)
        return await self._calls.stream(sending, request)


def _text(method: str | bytes) -> str:
    return method.decode() if isinstance(method, bytes) else method


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()
