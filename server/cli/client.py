"""Calls Cellbook as an external client does.

Every call has a deadline. Only a reply with ErrorInfo of our domain is a definite refusal; after any other error the
outcome is unknown, and `Client.call` sends the same request again under the same command_id.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from grpc_status import rpc_status

from cellbook.v1 import event_pb2, ledger_pb2, router_pb2
from cellbook.v1.auction_pb2_grpc import AuctionServiceStub
from cellbook.v1.audit_pb2_grpc import AuditServiceStub
from cellbook.v1.contact_pb2_grpc import ContactServiceStub
from cellbook.v1.event_pb2_grpc import EventServiceStub
from cellbook.v1.ledger_pb2_grpc import LedgerServiceStub
from cellbook.v1.move_pb2_grpc import MoveServiceStub
from cellbook.v1.operations_pb2_grpc import OperationsServiceStub
from cellbook.v1.router_pb2_grpc import RouterServiceStub
from cellbook.v1.saga_pb2_grpc import SagaServiceStub
from cells.time.clocks import SystemClock, UuidV7Ids
from server.cli.access import PLAIN, Access
from server.shell.calls.statuses import DOMAIN, facts_in
from server.shell.channels.options import OWN_CONNECTIONS, PROXY_CONFIG, RECONNECT, name_option
from server.shell.hosting.keepalive import KEEPALIVE
from server.shell.settings.addresses import target_of

if TYPE_CHECKING:
    from cellbook.v1.ledger_pb2_grpc import LedgerServiceAsyncStub

MARKET = "service/market"
BANK = "treasury/bank"
AUDITOR = "auditor/cellbook"
OPERATOR = "operator/cellbook"

IN_PROGRESS = "IN_PROGRESS"
# Refusals for location, clock or identity: the ledger has not read the request, so they do not answer it.
NOT_ABOUT_THE_REQUEST = frozenset(
    {
        "WRONG_CELL",
        "CELL_UNKNOWN",
        "CLOCK_OFFSET_EXCEEDED",
        "PRINCIPAL_MISSING",
        "PRINCIPAL_INVALID",
        "IDENTITY_MISSING",
        "TOKEN_INVALID",
        "CERTIFICATE_UNKNOWN",
        "NOT_PERMITTED",
        "NOT_YOUR_ACCOUNT",
    }
)
ATTEMPT_S = 10.0
# Of a call that is not repeated: an operator waits at a terminal, and an audit may cover many cells or many events.
ANSWER_S, AUDIT_S = 5.0, 30.0
# How long one request is retried before its caller is told that the cell does not answer.
PATIENCE_S = 90.0
BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 2.0
LOG_TIMEOUT_S = 120.0

RETRIED = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        # gRPC's status for a call that it dropped unread, because the cell was overloaded.
        grpc.StatusCode.CANCELLED,
    }
)

_OPTIONS = (("grpc.max_receive_message_length", 8 * 2**20), ("grpc.enable_retries", 0), *KEEPALIVE, *RECONNECT)

Reply = TypeVar("Reply", bound=Message)
Detail = TypeVar("Detail", bound=Message)


class ClientError(Exception):
    """A call that should have succeeded failed."""


class CallDenied(ClientError):
    """The call went to the wrong place, or its caller may not make it; `reason` names the rule."""

    def __init__(self, message: str, reason: str, facts: Mapping[str, str]) -> None:
        super().__init__(message)
        self.reason, self.facts = reason, facts


class NoAnswer(ClientError):
    """The outcome of a call that is not repeated is unknown."""


class CellNotListed(ClientError):
    """The command line names a cell that the router does not list."""


class SagaNotFound(ClientError):
    """Every cell has said that it has no such saga."""


class LedgerRefusal(Exception):
    """A definite refusal: `reason` names the rule; the message includes the facts."""

    def __init__(self, *, method: str, reason: str, message: str, facts: dict[str, str]) -> None:
        super().__init__(f"{method}: {reason}: {message}")
        self.reason = reason
        self.message = message
        self.facts = facts


class CellStubs:
    """The services of one cell, over one channel to all of its processes."""

    def __init__(self, client: "Client", channel: aio.Channel, name: str, region: str) -> None:
        self.client, self.name, self.region = client, name, region
        self.ledger = LedgerServiceStub(channel)
        self.auctions = AuctionServiceStub(channel)
        self.sagas = SagaServiceStub(channel)
        self.events = EventServiceStub(channel)
        self.contacts = ContactServiceStub(channel)
        self.audit = AuditServiceStub(channel)
        self.moves = MoveServiceStub(channel)
        self.operations = OperationsServiceStub(channel)

    async def ask(self, method: Callable[..., Awaitable[Reply]], request: Message) -> Reply:
        """One call for an auditor. Raises as `Client.once`."""
        return await self.client.once(method, request, AUDITOR, timeout_s=AUDIT_S, at=self.name)

    def items(
        self, method: "Callable[..., aio.UnaryStreamCall[Any, Reply]]", request: Message, by: str = AUDITOR
    ) -> AsyncGenerator[Reply, None]:
        """As `Client.items`."""
        return self.client.items(method, request, by, at=self.name)


class Client:
    """Channels to the router and its cells, and the calling convention."""

    def __init__(self, router: str, access: Access = PLAIN) -> None:
        self.retries = 0
        self.access = access
        self.address = router
        self._channels: list[aio.Channel] = []
        self.router = RouterServiceStub(self._channel(router))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(channel.close(None) for channel in self._channels))

    def cell(self, *, name: str, region: str, address: str) -> CellStubs:
        """`address` has all of its processes: host:port[+host:port]."""
        return CellStubs(self, self._channel(address), name, region)

    def cell_of(self, listed: router_pb2.Cell) -> CellStubs:
        """As the router lists it."""
        return self.cell(name=listed.name, region=listed.region, address="+".join(listed.endpoints))

    async def call(
        self,
        method: Callable[..., Awaitable[Reply]],
        request: Message,
        principal: str,
        ledger: "LedgerServiceAsyncStub | None" = None,
    ) -> Reply:
        """Sends `request` until there is a definite answer.

        With `ledger`, of the cell that the command goes to: a command still under way is polled with GetCommand until
        it has ended, and then sent again for its stored answer.

        Raises:
            LedgerRefusal: a definite refusal.
            ClientError: no definite answer within PATIENCE_S, or a status that the wire does not promise.
        """
        give_up = time.monotonic() + PATIENCE_S
        backoff_s = BACKOFF_FIRST_S
        while True:
            try:
                return await method(request, timeout=ATTEMPT_S, metadata=self.access.metadata(principal))
            except aio.AioRpcError as error:
                unknown = unknown_in(error, request)
            wait_s = unknown.retry_after_s or backoff_s * random.uniform(0.5, 1)  # noqa: S311 - jitter, no secret
            if time.monotonic() + wait_s > give_up:
                raise ClientError(f"no definite answer within {PATIENCE_S:.0f} s: {unknown.message}")
            self.retries += 1
            await asyncio.sleep(wait_s)
            backoff_s = min(2 * backoff_s, BACKOFF_MAX_S)
            if ledger is not None and unknown.in_progress:
                await self._ended(ledger, request, principal, give_up)

    async def once(
        self,
        method: Callable[..., Awaitable[Reply]],
        request: Message,
        by: str = OPERATOR,
        *,
        timeout_s: float = ANSWER_S,
        at: str = "",
    ) -> Reply:
        """One call. `at` says in the message of NoAnswer what was asked.

        Raises:
            LedgerRefusal: a definite refusal.
            NoAnswer: the outcome is unknown.
            ClientError: a status that the wire does not promise.
        """
        try:
            return await method(request, timeout=timeout_s, metadata=self.access.metadata(by))
        except aio.AioRpcError as error:
            raise self._no_answer(error, request, at) from error

    async def ask_router(
        self, method: Callable[..., Awaitable[Reply]], request: Message, *, timeout_s: float = ANSWER_S
    ) -> Reply:
        """One call for an operator to the router. Raises as `once`."""
        return await self.once(method, request, timeout_s=timeout_s, at=self.router_text())

    async def items(
        self,
        method: "Callable[..., aio.UnaryStreamCall[Any, Reply]]",
        request: Message,
        by: str = OPERATOR,
        *,
        timeout_s: float | None = None,
        at: str = "",
    ) -> AsyncGenerator[Reply, None]:
        """The items of a stream, which ends when this generator is closed. Raises as `once`."""
        call = method(request, timeout=timeout_s, metadata=self.access.metadata(by))
        try:
            async for item in call:
                yield item
        except aio.AioRpcError as error:
            raise self._no_answer(error, request, at or self.router_text()) from error
        finally:
            call.cancel()

    def router_text(self) -> str:
        """Names the router in an error."""
        return f"the router at {self.address} does not answer, or cannot do it now"

    def status_text(self, error: aio.AioRpcError) -> str:
        """A status that is no refusal of the ledger, in words. gRPC's details have addresses."""
        return status_text(error)

    async def log(
        self, cell: CellStubs, event_filter: event_pb2.EventFilter, *, from_position: int = 1, by: str = AUDITOR
    ) -> list[event_pb2.Event]:
        """All matching events of the cell from there on, up to where its log ended when it was asked."""
        request = event_pb2.SubscribeRequest(from_position=from_position, filter=event_filter)
        events: list[event_pb2.Event] = []
        items = self.items(cell.events.Subscribe, request, by, timeout_s=LOG_TIMEOUT_S, at=cell.name)
        async with asyncio.timeout(LOG_TIMEOUT_S), aclosing(items):
            async for item in items:
                if item.WhichOneof("item") == "caught_up":
                    return events
                events.append(item.event)
        raise ClientError(f"{cell.name}: the log ended before it had caught up")

    def _no_answer(self, error: aio.AioRpcError, request: Message, at: str) -> NoAnswer:
        """Raises if the answer is definite."""
        message = unknown_in(error, request, self.status_text).message
        return NoAnswer(f"{at}: {message}" if at else message)

    def _channel(self, address: str) -> aio.Channel:
        endpoints = address.split("+")
        options: list[tuple[str, int | str]] = [*_OPTIONS, *name_option(endpoints)]
        if len(endpoints) > 1:
            # Connects to the process that leads.
            options += [OWN_CONNECTIONS, ("grpc.service_config", PROXY_CONFIG)]
        channel = self.access.channel(target_of(endpoints), options)
        self._channels.append(channel)
        return channel

    async def _ended(self, ledger: "LedgerServiceAsyncStub", request: Message, principal: str, give_up: float) -> None:
        """Waits until the command is no longer under way, or is unknown."""
        ask = ledger_pb2.GetCommandRequest(command_id=getattr(request, "command_id", ""))
        metadata = self.access.metadata(principal)
        while time.monotonic() < give_up:
            try:
                status = await ledger.GetCommand(ask, timeout=ATTEMPT_S, metadata=metadata)
            except aio.AioRpcError:
                return
            if status.state != ledger_pb2.COMMAND_STATE_IN_PROGRESS:
                return
            await asyncio.sleep(BACKOFF_FIRST_S)


def new_command_id() -> str:
    """A UUID of version 7."""
    return str(UuidV7Ids(SystemClock()).event_id())


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """The call may or may not have happened."""

    retry_after_s: float | None
    in_progress: bool
    message: str


def status_text(error: aio.AioRpcError) -> str:
    return f"{error.code().name}: {error.details() or 'no details'}"


def unknown_in(
    error: aio.AioRpcError, request: Message, text: Callable[[aio.AioRpcError], str] = status_text
) -> Unknown:
    """The unknown outcome in `error`, with how to retry; raises if the answer is definite."""
    method = type(request).__name__.removesuffix("Request")
    # AioRpcError carries code, details and trailing metadata, which is all that from_call reads.
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    info, retry = _detail(status, error_details_pb2.ErrorInfo()), _detail(status, error_details_pb2.RetryInfo())
    if info is not None and info.domain != DOMAIN:
        info = None
    said = f"{method}: {info.reason}: {error.details()}" if info is not None else f"{method}: {text(error)}"
    if error.code() in RETRIED:
        return Unknown(
            retry_after_s=retry.retry_delay.ToTimedelta().total_seconds() if retry is not None else None,
            in_progress=info is not None and info.reason == IN_PROGRESS,
            message=said,
        )
    if info is None:
        raise ClientError(said) from error
    facts = facts_in(info)
    if info.reason in NOT_ABOUT_THE_REQUEST:
        raise CallDenied(said, info.reason, facts) from error
    raise LedgerRefusal(method=method, reason=info.reason, message=error.details() or "", facts=facts) from error


def _detail(status: status_pb2.Status | None, found: Detail) -> Detail | None:
    """The detail of that type, put into `found`; None: there is none."""
    return next((found for each in (status.details if status else ()) if each.Unpack(found)), None)
