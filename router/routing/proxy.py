"""Passes calls of the cells' services on, byte by byte, for clients that know only one address.

The target of a call comes from its metadata, or from one field of its request (routes.py). Each item of a batch goes to
its own user's home, and any other request on as the bytes that came. Deadline, metadata, streams, and statuses with
their details are passed on unchanged.

The caller proves its identity before any lookup, and a user's call goes only to that user's home, so a stranger gets
the same answer whether or not a user exists. The cell does the authorization with the caller's own token: each call is
marked as passed on, so that the cell does not take the router's certificate for the caller's. A call is repeated only
if a cell says that the user lives elsewhere; any other retry is up to the caller.
"""

import re
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import aclosing
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any
from uuid import UUID

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from cells.domain.moves.home import Home
from cells.domain.refusals import CellUnknown, UserNotFound
from cells.home_cache import HomeCache
from router.directory.homes import Homes
from router.directory.topology import CellState, LiveTopology
from router.refusals import CellDown, GoalMissing
from router.routing.batches import Batch, is_batch
from router.routing.routes import (
    ROUTES,
    RoutingTarget,
    is_for_cells,
    named_in,
    no_routing_target,
    routing_target_in,
)
from server.shell.calls.call import METADATA, as_it_is
from server.shell.calls.guard import DEFAULT_TIMEOUT_S, CallGuard, Found
from server.shell.calls.policy import PolicyTable, check_acts_for
from server.shell.calls.statuses import WRONG_CELL, refusal_in
from server.shell.calls.streams import write
from server.shell.channels.channel_pool import ChannelPool
from server.shell.channels.forwarding import ANSWER_HERE_KEY, HOP_KEYS, answers_of, kept_of, pass_on_error
from server.shell.hosting.security import Security
from server.shell.identity.callers import FORWARDED_KEY, ON_BEHALF_KEYS, Identity
from server.shell.identity.principal import PRINCIPAL_KEY, Principal
from server.shell.observability.metrics import CallMetrics
from server.shell.rpc import Context, Handler, answer_parser, method_of, request_parser

if TYPE_CHECKING:
    from server.shell.calls.otel import OtelTracing

# In metrics, for all methods that are not known here.
UNKNOWN = "unknown"

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Set only by cells and routers; removed from what any other caller sends.
_OURS_KEYS = ON_BEHALF_KEYS | {FORWARDED_KEY, ANSWER_HERE_KEY, "cellbook-hlc", "cellbook-vector"}
NOT_PASSED_ON = HOP_KEYS | _OURS_KEYS
_FORWARDED = ((FORWARDED_KEY, "1"),)

Metadata = tuple[tuple[str, str | bytes], ...]


class Forwarder:
    """Finds the cell of a call, and the channel to it."""

    def __init__(self, *, directory: Homes, topology: LiveTopology, channels: ChannelPool) -> None:
        self._directory = directory
        self._topology = topology
        self._channels = channels
        # A home may be old: the cell checks it.
        self.homes = HomeCache(directory=self, monotonic_s=monotonic, believes=self._believes)

    def channel(self, name: str) -> grpc.aio.Channel:
        """Raises CellUnknown, CellDown."""
        cell = self._topology.now.cell(name)
        if cell is None:
            raise CellUnknown(cell=name)
        if cell.state is CellState.DOWN:
            raise CellDown(cell=name)
        return self._channels.channel(name, cell.endpoints)

    async def home_for(self, method: str, target: RoutingTarget | None) -> Home:
        """The cell of a call. Raises GoalMissing, UserNotFound, CellUnknown, DirectoryUnavailable, DirectoryBusy."""
        if target is None and method not in ROUTES:
            raise GoalMissing(problem=no_routing_target(method))
        if target is not None and target.user_id:
            return await self.home(target.user_id)
        return Home(target.cell if target is not None else await self.any_cell(), 0)

    async def home(self, user_id: str) -> Home:
        """Raises UserNotFound, CellUnknown, DirectoryUnavailable, DirectoryBusy."""
        if _UUID.fullmatch(user_id) is None:
            # The id names no possible user; any cell explains what is wrong with it.
            return Home(await self.any_cell(), 0)
        home = await self.homes.home(user_id)
        if home is None:
            raise UserNotFound(user_id=user_id)
        return home

    async def find(self, user: str) -> Home | None:
        """The user's home in the directory. Raises DirectoryUnavailable, DirectoryBusy."""
        entry = await self._directory.find(UUID(user)) if _UUID.fullmatch(user) else None
        return Home(entry.cell.name, entry.epoch) if entry is not None else None

    async def _believes(self, user: str, tried: Home, claimed: Home) -> bool:
        """A directory that was restored, or is a copy, may be behind the cells."""
        return _UUID.fullmatch(user) is not None and await self._directory.yield_to(UUID(user), claimed, by=tried.cell)

    async def any_cell(self) -> str:
        up = [cell for cell in self._topology.now.cells if cell.state is not CellState.DOWN]
        if not up:
            raise CellUnknown(cell="any")
        return up[0].name


class ProxyingGuard(CallGuard):
    """Guards calls to this process, and passes calls for cells on."""

    def __init__(
        self,
        policies: PolicyTable,
        *,
        forwarder: Forwarder,
        security: Security,
        calls: CallMetrics,
        streams_max: int,
        tracing: "OtelTracing | None" = None,
    ) -> None:
        super().__init__(
            policies,
            observe=calls.observe,
            identity=security.identity,
            throttle=security.throttle,
            denied=calls.denied,
            streams_max=streams_max,
            tracing=tracing,
        )
        self._forwarder, self._passing = forwarder, security.passing
        # If callers prove their identity, the identity that they merely state is not passed on.
        said = frozenset({PRINCIPAL_KEY}) if security.certificates is not None else frozenset()
        self._not_passed_on = NOT_PASSED_ON | said
        self._handlers: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Found]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Found:
        method = handler_call_details.method
        if not is_for_cells(method):
            return await super().intercept_service(continuation, handler_call_details)
        METADATA.set(handler_call_details.invocation_metadata)
        return self._handlers.get(method) or self._handler(method)

    def _identity_for(self, method: str) -> Identity:
        return self._passing if is_for_cells(method) else self.identity

    def _handler(self, method: str) -> Handler:
        """A handler without serializers, so requests and answers stay bytes."""
        known = method_of(method)
        if known is None:
            # An unknown method, of a newer version, is passed on as a stream of streams, which fits any method. It is
            # neither cached nor named in metrics: clients may make up names.
            stream = self.entered(method, None, partial(self._stream_on, method), is_stream=True, label=UNKNOWN)
            return grpc.stream_stream_rpc_method_handler(stream)
        if known.client_streaming or known.server_streaming:
            parse = None if known.client_streaming else as_it_is
            stream = self.entered(method, parse, partial(self._stream_on, method), is_stream=True)
            handler: Handler = grpc.stream_stream_rpc_method_handler(stream)
        else:
            unary = self.entered(method, as_it_is, partial(self._unary_on, method))
            handler = grpc.stream_unary_rpc_method_handler(unary)
        self._handlers[method] = handler
        return handler

    async def _unary_on(self, method: str, principal: Principal, request: bytes, context: Context) -> bytes:
        try:
            return await self._answered(method, principal, request, context)
        except grpc.aio.AioRpcError as error:
            await pass_on_error(error, context)

    async def _answered(self, method: str, principal: Principal, request: bytes, context: Context) -> bytes:
        metadata = passed_on(METADATA.get(), self._not_passed_on)
        target = named_in(metadata)
        if target is None and is_batch(method):
            return await self._batch_answered(method, principal, request, metadata, context)
        target = self._allowed(principal, target or routing_target_in(method, request))
        home = await self._forwarder.home_for(method, target)
        try:
            return await self._call(home.cell, method, request, metadata, context)
        except grpc.aio.AioRpcError as error:
            user = target.user_id if target is not None else ""
            moved = await self._forwarder.homes.corrected(user, home, refusal_in(error)) if user else None
            if moved is None:
                raise
        return await self._call(moved.cell, method, request, metadata, context)

    def _allowed(self, principal: Principal, target: RoutingTarget | None) -> RoutingTarget | None:
        """Keeps a caller from learning, by the route of its call, whether another user exists.

        Raises:
            RateExceeded, NotYourAccount.
        """
        self.throttle.check(principal)
        if target is not None and target.user_id:
            check_acts_for(principal, target.user_id)
        return target

    async def _batch_answered(
        self, method: str, principal: Principal, request: bytes, metadata: Metadata, context: Context
    ) -> bytes:
        """The raw answer if all items have one home cell; otherwise one answer merged from several."""
        forwarder, parse = self._forwarder, answer_parser(method)
        self.throttle.check(principal)
        try:
            asked = request_parser(method)(request)
        except DecodeError:
            return await self._call(await forwarder.any_cell(), method, request, metadata, context)

        async def send(cell: str, part: Message) -> Awaitable[Any]:
            return _parsed(self._sent(cell, method, part.SerializeToString(), metadata, context), parse)

        async def whole(cell: str) -> tuple[bytes, Sequence[Any]]:
            response = await self._call(cell, method, request, metadata, context)
            # Decoded only if there may be something to look for.
            found: Any = parse(response) if WRONG_CELL.encode() in response else None
            return response, found.results if found is not None else ()

        batch = Batch(finder=forwarder, method=method, send=send)
        for user_id in batch.users(asked):
            check_acts_for(principal, user_id)
        answer = await batch.answered(asked, whole)
        return answer if isinstance(answer, bytes) else answer.SerializeToString()

    def _sent(self, cell: str, method: str, request: bytes, metadata: Metadata, context: Context) -> Any:  # noqa: ANN401 - a call of bytes
        """Raises CellUnknown, CellDown."""
        remaining_s = context.time_remaining()
        channel: Any = self._forwarder.channel(cell)
        timeout_s = DEFAULT_TIMEOUT_S if remaining_s is None else remaining_s
        return channel.unary_unary(method)(request, timeout=timeout_s, metadata=metadata)

    async def _call(self, cell: str, method: str, request: bytes, metadata: Metadata, context: Context) -> bytes:
        call = self._sent(cell, method, request, metadata, context)
        response: bytes = await call
        if initial := await call.initial_metadata():
            await context.send_initial_metadata(tuple(initial))
        context.set_trailing_metadata(tuple(await call.trailing_metadata()))
        return response

    async def _stream_on(
        self, method: str, principal: Principal, request: bytes | AsyncIterable[bytes], context: Context
    ) -> None:
        try:
            call = await self._begun(method, principal, request, context)
        except grpc.aio.AioRpcError as error:
            await pass_on_error(error, context)
        async with aclosing(answers_of(call, context)) as responses:
            async for response in responses:
                await write(method, response, context)

    async def _begun(
        self, method: str, principal: Principal, request: bytes | AsyncIterable[bytes], context: Context
    ) -> Any:  # noqa: ANN401 - a call of bytes
        metadata = passed_on(METADATA.get(), self._not_passed_on)
        # For a request stream, only the metadata tell where it goes.
        target = named_in(metadata) or (routing_target_in(method, request) if isinstance(request, bytes) else None)
        target = self._allowed(principal, target)
        channel: Any = self._forwarder.channel((await self._forwarder.home_for(method, target)).cell)
        how = {"timeout": context.time_remaining(), "metadata": metadata}
        if isinstance(request, bytes):
            return channel.unary_stream(method)(request, **how)
        return channel.stream_stream(method)(request, **how)


async def _parsed(call: Awaitable[bytes], parse: Callable[[bytes], Message]) -> Message:
    return parse(await call)


def passed_on(sent: Iterable[tuple[str, str | bytes]], not_passed_on: AbstractSet[str]) -> Metadata:
    """The caller's metadata, without those of its connection to us and those that callers may not set."""
    return (*kept_of(sent, not_passed_on), *_FORWARDED)
