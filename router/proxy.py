"""Passes calls of the cells' services on, byte by byte, for clients that know only one address.

Only batches are decoded, to send each item to its own user's home. The target of a call comes from its metadata, or
from one field that is found in the request's bytes (routes.py). Deadline, metadata, streams, and statuses with their
details are passed on unchanged. The caller proves its identity before any lookup, and a user's call goes only to that
user's home, so a stranger gets the same answer whether or not a user exists. The cell does the authorization with the
caller's own token: each call is marked as passed on, so that the cell does not take the router's certificate for the
caller's. A call is repeated only if a cell says that the user lives elsewhere; any other retry is up to the caller.
"""

import re
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from cells.domain.refusals import CellUnknown, UserNotFound, WrongCell
from router.batches import Batch
from router.directory import Home
from router.homes import Homes
from router.location_cache import KnownHome
from router.refusals import CellDown, GoalMissing
from router.routes import ROUTES, RoutingTarget, is_for_cells, method_of, named_in, no_routing_target, routing_target_in
from router.topology import CellState, LiveTopology
from server.shell.calls.call import CALLER, METADATA, as_it_is
from server.shell.calls.guard import DEFAULT_TIMEOUT_S, CallGuard, Found
from server.shell.calls.policy import PolicyTable, check_acts_for
from server.shell.calls.statuses import WRONG_CELL, refusal_in
from server.shell.channels.channel_pool import ChannelPool
from server.shell.channels.client import forwarding_places
from server.shell.channels.forwarding import ANSWER_HERE_KEY, HOP_KEYS, kept_of, pass_on_error
from server.shell.hosting.security import Security
from server.shell.identity.callers import FORWARDED_KEY, ON_BEHALF_KEYS, Identity
from server.shell.identity.principal import PRINCIPAL_KEY
from server.shell.observability.metrics import CallMetrics
from server.shell.observability.tracing import Tracing
from server.shell.rpc import Context, Handler

HOMES_MAX = 200_000
# In metrics, for all methods that are not known here.
UNKNOWN = "unknown"

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Set only by cells and routers; removed from what any other caller sends.
_OURS_KEYS = ON_BEHALF_KEYS | {FORWARDED_KEY, ANSWER_HERE_KEY, "cellbook-hlc", "cellbook-vector"}
NOT_PASSED_ON = HOP_KEYS | _OURS_KEYS
_FORWARDED = ((FORWARDED_KEY, "1"),)

Metadata = tuple[tuple[str, str | bytes], ...]
# Each item has a home of its own.
BATCHES = frozenset(method for method, route in ROUTES.items() if route.path.startswith("items."))


@dataclass(slots=True, kw_only=True)
class Forwarder:
    """Finds the channel to the cell of a goal. To be closed."""

    homes: Homes
    topology: LiveTopology
    places: ChannelPool = field(default_factory=lambda: forwarding_places(None))
    # User -> home. It may be old: the cell checks it.
    known: dict[str, KnownHome] = field(default_factory=dict)

    def channel(self, name: str) -> grpc.aio.Channel:
        """Raises CellUnknown, CellDown."""
        cell = self.topology.now.cell(name)
        if cell is None:
            raise CellUnknown(cell=name)
        if cell.state is CellState.DOWN:
            raise CellDown(cell=name)
        return self.places.channel(name, cell.endpoints)

    async def cell(self, method: str, target: RoutingTarget | None) -> str:
        """Raises GoalMissing, UserNotFound, CellUnknown, DirectoryUnavailable, DirectoryBusy."""
        if target is None and method not in ROUTES:
            raise GoalMissing(problem=no_routing_target(method))
        if target is not None and target.cell:
            return target.cell
        if target is None:
            return await self.any_cell()
        known = self.known.get(target.user_id)
        return (known or await self.home(target.user_id)).cell

    async def home(self, user_id: str) -> KnownHome:
        """Raises UserNotFound, CellUnknown, DirectoryUnavailable, DirectoryBusy."""
        if _UUID.fullmatch(user_id) is None:
            # The id names no possible user; any cell explains what is wrong with it.
            return KnownHome(await self.any_cell(), 0)
        home = await self._found(user_id)
        return self._keep(user_id, KnownHome(home.cell.name, home.epoch))

    async def elsewhere(self, target: RoutingTarget | None, tried: str, error: grpc.aio.AioRpcError) -> str | None:
        """The user's home, if the cell that was tried answers WRONG_CELL and is right. Raises as `cell`.

        The higher epoch is right: a directory that was restored, or is a copy, may be behind the cells.
        """
        refused = refusal_in(error)
        if not isinstance(refused, WrongCell) or target is None or target.cell:
            return None
        facts = {name: str(value) for name, value in refused.facts.items()}
        home = await self.corrected_by(target.user_id, KnownHome(tried, 0), facts)
        return None if home is None else home.cell

    async def corrected_by(self, user_id: str, tried: KnownHome, facts: dict[str, str]) -> KnownHome | None:
        """The same, from the facts of a WRONG_CELL."""
        if facts.get("resource", "").lower() != f"user {user_id}":
            return None
        self.known.pop(user_id, None)
        home = await self._found(user_id)
        told = KnownHome(facts.get("cell", ""), int(facts.get("epoch", "0")))
        if told.epoch > home.epoch and await self.homes.yield_to(home, *told, by=tried.cell):
            return self._keep(user_id, told)
        kept = self._keep(user_id, KnownHome(home.cell.name, home.epoch))
        return kept if kept.cell != tried.cell else None

    async def close(self) -> None:
        await self.places.close()

    async def _found(self, user_id: str) -> Home:
        home = await self.homes.find(UUID(user_id))
        if home is None:
            raise UserNotFound(user_id=user_id)
        return home

    def _keep(self, user_id: str, home: KnownHome) -> KnownHome:
        if len(self.known) >= HOMES_MAX:
            self.known.pop(next(iter(self.known)))
        self.known[user_id] = home
        return home

    async def any_cell(self) -> str:
        up = [cell for cell in self.topology.now.cells if cell.state is not CellState.DOWN]
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
        tracing: Tracing | None = None,
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
        self._ways, self._passing = forwarder, security.passing
        # If callers prove their identity, the identity that they merely state is not passed on.
        said = frozenset({PRINCIPAL_KEY}) if security.certificates is not None else frozenset()
        self._not_passed_on = NOT_PASSED_ON | said
        self._forwarding: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Found]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Found:
        method = handler_call_details.method
        if not is_for_cells(method):
            return await super().intercept_service(continuation, handler_call_details)
        METADATA.set(handler_call_details.invocation_metadata)
        return self._forwarding.get(method) or self._forwarder(method)

    def _identity_for(self, method: str) -> Identity:
        return self._passing if is_for_cells(method) else self.identity

    def _forwarder(self, method: str) -> Handler:
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
        self._forwarding[method] = handler
        return handler

    async def _unary_on(self, method: str, request: bytes, context: Context) -> bytes:
        try:
            return await self._answered(method, request, context)
        except grpc.aio.AioRpcError as error:
            await pass_on_error(error, context)

    async def _answered(self, method: str, request: bytes, context: Context) -> bytes:
        metadata = passed_on(METADATA.get(), self._not_passed_on)
        target = named_in(metadata)
        if target is None and method in BATCHES:
            return await self._batch_answered(method, request, metadata, context)
        target = self._allowed(target or routing_target_in(method, request))
        cell = await self._ways.cell(method, target)
        try:
            return await self._call(cell, method, request, metadata, context)
        except grpc.aio.AioRpcError as error:
            home = await self._ways.elsewhere(target, cell, error)
            if home is None:
                raise
        return await self._call(home, method, request, metadata, context)

    def _allowed(self, target: RoutingTarget | None) -> RoutingTarget | None:
        """Keeps a caller from learning, by the route of its call, whether another user exists.

        Raises:
            RateExceeded, NotYourAccount.
        """
        self.throttle.check(CALLER.get())
        if target is not None and target.user_id:
            check_acts_for(CALLER.get(), target.user_id)
        return target

    async def _batch_answered(self, method: str, request: bytes, metadata: Metadata, context: Context) -> bytes:
        """The raw answer if all items have one home cell; otherwise one answer merged from several."""
        types = method_of(method)
        if types is None:
            raise LookupError(f"no stub of {method} has been imported")
        self.throttle.check(CALLER.get())
        try:
            asked = GetMessageClass(types.input_type).FromString(request)
        except DecodeError:
            return await self._call(await self._ways.any_cell(), method, request, metadata, context)

        async def send(cell: str, part: Message) -> Awaitable[Any]:
            sent = self._sent(cell, method, part.SerializeToString(), metadata, context)
            return _parsed(sent, GetMessageClass(types.output_type))

        batch = Batch(finder=self._ways, method=method, path=ROUTES[method].path, send=send)
        for user_id in batch.users(asked):
            check_acts_for(CALLER.get(), user_id)
        homes, lost = await batch.placed(asked)
        cells = {home.cell for home in homes.values()} or {await self._ways.any_cell()}
        if lost or len(cells) > 1:
            return (await batch.gathered(asked, lost, homes)).SerializeToString()
        response = await self._call(cells.pop(), method, request, metadata, context)
        if WRONG_CELL.encode() not in response:
            return response
        results = GetMessageClass(types.output_type).FromString(response).results  # type: ignore[attr-defined]
        mended = await batch.mended(asked, dict(enumerate(results)), homes)
        return response if mended is None else mended.SerializeToString()

    def _sent(self, cell: str, method: str, request: bytes, metadata: Metadata, context: Context) -> Any:  # noqa: ANN401 - a call of bytes
        """Raises CellUnknown, CellDown."""
        remaining_s = context.time_remaining()
        channel: Any = self._ways.channel(cell)
        timeout_s = DEFAULT_TIMEOUT_S if remaining_s is None else remaining_s
        return channel.unary_unary(method)(request, timeout=timeout_s, metadata=metadata)

    async def _call(self, cell: str, method: str, request: bytes, metadata: Metadata, context: Context) -> bytes:
        call = self._sent(cell, method, request, metadata, context)
        response: bytes = await call
        if initial := await call.initial_metadata():
            await context.send_initial_metadata(tuple(initial))
        context.set_trailing_metadata(tuple(await call.trailing_metadata()))
        return response

    async def _stream_on(self, method: str, request: bytes | AsyncIterable[bytes], context: Context) -> None:
        call = None
        try:
            call = await self._begun(method, request, context)
            if initial := await call.initial_metadata():
                await context.send_initial_metadata(tuple(initial))
            async for response in call:
                await context.write(response)
            context.set_trailing_metadata(tuple(await call.trailing_metadata()))
        except grpc.aio.AioRpcError as error:
            await pass_on_error(error, context)
        finally:
            if call is not None:
                call.cancel()

    async def _begun(self, method: str, request: bytes | AsyncIterable[bytes], context: Context) -> Any:  # noqa: ANN401 - a call of bytes
        metadata = passed_on(METADATA.get(), self._not_passed_on)
        # For a request stream, only the metadata tell where it goes.
        target = self._allowed(
            named_in(metadata) or (routing_target_in(method, request) if isinstance(request, bytes) else None)
        )
        channel: Any = self._ways.channel(await self._ways.cell(method, target))
        how = {"timeout": context.time_remaining(), "metadata": metadata}
        if isinstance(request, bytes):
            return channel.unary_stream(method)(request, **how)
        return channel.stream_stream(method)(request, **how)


async def _parsed(call: Awaitable[bytes], response: type[Message]) -> Message:
    return response.FromString(await call)


def passed_on(sent: Iterable[tuple[str, str | bytes]], not_passed_on: AbstractSet[str]) -> Metadata:
    """The caller's metadata, without those of its connection to us and those that callers may not set."""
    return (*kept_of(sent, not_passed_on), *_FORWARDED)
