"""Calls Cellbook as an external client does.

Every call has a deadline. While an outcome is unknown, the same request is sent again under the same command_id; only
a reply with ErrorInfo of our domain is a definite refusal.
"""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar
from uuid import UUID

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status

from cellbook.v1 import event_pb2, ledger_pb2
from cellbook.v1.auction_pb2_grpc import AuctionServiceStub
from cellbook.v1.audit_pb2_grpc import AuditServiceStub
from cellbook.v1.contact_pb2_grpc import ContactServiceStub
from cellbook.v1.event_pb2_grpc import EventServiceStub
from cellbook.v1.ledger_pb2_grpc import LedgerServiceStub
from cellbook.v1.router_pb2_grpc import RouterServiceStub
from cellbook.v1.saga_pb2_grpc import SagaServiceStub
from server.cli.access import PLAIN, Access
from server.shell.channels.client import OWN_CONNECTIONS, PROXY_CONFIG, RECONNECT, name_option
from server.shell.hosting.host import KEEPALIVE
from server.shell.settings.addresses import target_of

if TYPE_CHECKING:
    from cellbook.v1.auction_pb2_grpc import AuctionServiceAsyncStub
    from cellbook.v1.audit_pb2_grpc import AuditServiceAsyncStub
    from cellbook.v1.contact_pb2_grpc import ContactServiceAsyncStub
    from cellbook.v1.event_pb2_grpc import EventServiceAsyncStub
    from cellbook.v1.ledger_pb2_grpc import LedgerServiceAsyncStub
    from cellbook.v1.saga_pb2_grpc import SagaServiceAsyncStub

MARKET = "service/market"
BANK = "treasury/bank"
AUDITOR = "auditor/demo"

DOMAIN = "cellbook.v1"
# Keys in the metadata of every refusal that are not facts.
NOT_FACTS = frozenset({"final", "home_cell"})
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


class ClientError(Exception):
    """A call that should have succeeded failed."""


class CellNotListed(ClientError):
    """The command line names a cell that the router does not list."""


class LedgerRefusal(Exception):
    """A definite refusal: `reason` names the rule; the message includes the facts."""

    def __init__(self, *, method: str, reason: str, message: str, facts: dict[str, str]) -> None:
        super().__init__(f"{method}: {reason}: {message}")
        self.reason = reason
        self.message = message
        self.facts = facts


@dataclass(frozen=True, slots=True, kw_only=True)
class CellStubs:
    """The services of one cell, over one channel."""

    name: str
    region: str
    # Of all its processes: host:port[+host:port].
    address: str
    ledger: "LedgerServiceAsyncStub"
    auctions: "AuctionServiceAsyncStub"
    sagas: "SagaServiceAsyncStub"
    events: "EventServiceAsyncStub"
    contacts: "ContactServiceAsyncStub"
    audit: "AuditServiceAsyncStub"


class Client:
    """Channels to the router and its cells, and the calling convention."""

    def __init__(self, router: str, access: Access = PLAIN) -> None:
        self.retries = 0
        self.access = access
        self._channels: list[aio.Channel] = []
        self.router = RouterServiceStub(self._channel(router))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(channel.close(None) for channel in self._channels))

    def cell(self, *, name: str, region: str, address: str) -> CellStubs:
        channel = self._channel(address)
        return CellStubs(
            name=name,
            region=region,
            address=address,
            ledger=LedgerServiceStub(channel),
            auctions=AuctionServiceStub(channel),
            sagas=SagaServiceStub(channel),
            events=EventServiceStub(channel),
            contacts=ContactServiceStub(channel),
            audit=AuditServiceStub(channel),
        )

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
                raise ClientError(f"no definite answer within {PATIENCE_S:.0f} s: {unknown.told}")
            self.retries += 1
            await asyncio.sleep(wait_s)
            backoff_s = min(2 * backoff_s, BACKOFF_MAX_S)
            if ledger is not None and unknown.in_progress:
                await self._ended(ledger, request, principal, give_up)

    async def log(
        self, cell: CellStubs, event_filter: event_pb2.EventFilter, *, from_position: int = 1
    ) -> list[event_pb2.Event]:
        """All matching events of the cell from there on, up to where its log ended when it was asked."""
        request = event_pb2.SubscribeRequest(from_position=from_position, filter=event_filter)
        events: list[event_pb2.Event] = []
        async with asyncio.timeout(LOG_TIMEOUT_S):
            async for item in self._subscribe(cell, request):
                if item.WhichOneof("item") == "caught_up":
                    return events
                events.append(item.event)
        raise ClientError(f"{cell.name}: the log ended before it had caught up")

    async def _subscribe(
        self, cell: CellStubs, request: event_pb2.SubscribeRequest
    ) -> AsyncIterator[event_pb2.SubscribeResponse]:
        call = cell.events.Subscribe(request, timeout=LOG_TIMEOUT_S, metadata=self.access.metadata(AUDITOR))
        try:
            async for item in call:
                yield item
        except aio.AioRpcError as error:
            raise ClientError(f"{cell.name}: {_told(error)}") from error
        finally:
            call.cancel()

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
    """A UUID of version 7 (RFC 9562): 48 bits of milliseconds, then random bits."""
    chance = int.from_bytes(os.urandom(10)) & ((1 << 74) - 1)
    high, low = chance >> 62, chance & ((1 << 62) - 1)
    value = (time.time_ns() // 1_000_000) << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low
    return str(UUID(int=value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """The call may or may not have happened."""

    retry_after_s: float | None
    in_progress: bool
    told: str


def unknown_in(error: aio.AioRpcError, request: Message) -> Unknown:
    """The unknown outcome in `error`, with how to retry; raises if the answer is definite."""
    method = type(request).__name__.removesuffix("Request")
    info, retry = _details(error)
    if info is not None and info.domain != DOMAIN:
        info = None
    told = f"{method}: {info.reason}: {error.details()}" if info is not None else f"{method}: {_told(error)}"
    if error.code() in RETRIED:
        return Unknown(
            retry_after_s=retry.retry_delay.ToTimedelta().total_seconds() if retry is not None else None,
            in_progress=info is not None and info.reason == IN_PROGRESS,
            told=told,
        )
    if info is None or info.reason in NOT_ABOUT_THE_REQUEST:
        raise ClientError(told) from error
    facts = {name: fact for name, fact in info.metadata.items() if name not in NOT_FACTS}
    raise LedgerRefusal(method=method, reason=info.reason, message=error.details() or "", facts=facts) from error


def _details(
    error: aio.AioRpcError,
) -> tuple[error_details_pb2.ErrorInfo | None, error_details_pb2.RetryInfo | None]:
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    has_info = has_retry = False
    # AioRpcError carries code, details and trailing metadata, which is all that from_call reads.
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    for detail in status.details if status is not None else ():
        has_info = detail.Unpack(info) or has_info
        has_retry = detail.Unpack(retry) or has_retry
    return (info if has_info else None, retry if has_retry else None)


def _told(error: aio.AioRpcError) -> str:
    return f"{error.code().name}: {error.details() or 'no details'}"
