"""A host with two tiny services, and a channel to it: what the tests of the shell run against."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc

from cellbook.v1 import event_pb2, event_pb2_grpc, ledger_pb2, ledger_pb2_grpc
from server.process.policies import POLICIES
from server.shell.calls.call import current_call
from server.shell.calls.guard import CallGuard, ClockExchange
from server.shell.channels.client import open_channel
from server.shell.hosting.host import GrpcHost
from server.shell.identity.principal import Principal
from server.shell.rpc import Context, Metadata
from server.shell.settings.host import HostSettings

if TYPE_CHECKING:
    from cells.domain.refusals import Refused

USER = "0198c0de-0000-7000-8000-000000000001"
SERVICE = (("cellbook-principal", "service/shop"),)
PEER = (("cellbook-principal", "peer/eu-west"),)
# Their types know nothing of grpc.aio.
HEALTH: Any = health_pb2_grpc.HealthStub
REFLECTION: Any = reflection_pb2_grpc.ServerReflectionStub
LEDGER = "cellbook.v1.LedgerService"

Pairs: TypeAlias = tuple[tuple[str, str], ...]
Answer = Callable[[], Awaitable[ledger_pb2.GetBalanceResponse]]


async def accept() -> ledger_pb2.GetBalanceResponse:
    return ledger_pb2.GetBalanceResponse(user_id=USER)


def refuse(refused: BaseException) -> Answer:
    async def answer() -> ledger_pb2.GetBalanceResponse:
        raise refused

    return answer


class Ledger(ledger_pb2_grpc.LedgerServiceServicer):
    """Answers GetBalance and GetCommand as the test says."""

    def __init__(self) -> None:
        self.answer: Answer = accept
        self.principals: list[str] = []
        self.timeouts_s: list[float | None] = []

    async def GetBalance(
        self, request: ledger_pb2.GetBalanceRequest, context: Context
    ) -> ledger_pb2.GetBalanceResponse:
        call = current_call()
        self.principals.append(str(call.principal))
        self.timeouts_s.append(call.timeout_s)
        return await self.answer()

    async def GetCommand(
        self, request: ledger_pb2.GetCommandRequest, context: Context
    ) -> ledger_pb2.GetCommandResponse:
        await self.answer()
        return ledger_pb2.GetCommandResponse()


def ledger_servicer() -> Ledger:
    # What is not there is answered with UNIMPLEMENTED.
    return Ledger()  # type: ignore[abstract]


def event_servicer() -> "Events":
    return Events()  # type: ignore[abstract]


class Events(event_pb2_grpc.EventServiceServicer):
    """Streams `count` events, then raises or waits for ever."""

    def __init__(self) -> None:
        self.count = 3
        self.then: BaseException | None = None
        self.wait = False
        self.closed = asyncio.Event()

    async def Subscribe(
        self, request: event_pb2.SubscribeRequest, context: Context
    ) -> AsyncIterator[event_pb2.SubscribeResponse]:
        try:
            for position in range(1, self.count + 1):
                yield event_pb2.SubscribeResponse(event=event_pb2.Event(position=position))
            if self.wait:
                await asyncio.Event().wait()
            if self.then is not None:
                raise self.then
        finally:
            self.closed.set()


class Clock:
    """Writes down what it is told."""

    def __init__(self, mine: str = "100") -> None:
        self.mine = mine
        self.heard: list[tuple[str, str | bytes]] = []
        self.refusal: Refused | None = None

    def received(self, metadata: Metadata, principal: Principal) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.heard += [(str(principal), value) for key, value in metadata if key == "cellbook-hlc"]

    def outgoing(self) -> Sequence[tuple[str, str]]:
        return (("cellbook-hlc", self.mine),)


class Shell:
    """A host with both services, and a channel to it."""

    def __init__(self, settings: HostSettings, clock: ClockExchange | None, default_timeout_s: float) -> None:
        self.guard = CallGuard(POLICIES, clock=clock, default_timeout_s=default_timeout_s)
        self.host = GrpcHost(settings, name="us-east", guard=self.guard)
        self.ledger, self.events = ledger_servicer(), event_servicer()
        ledger_pb2_grpc.add_LedgerServiceServicer_to_server(self.ledger, self.host.server)
        event_pb2_grpc.add_EventServiceServicer_to_server(self.events, self.host.server)

    async def start(self, *, serving: bool = True) -> None:
        await self.host.start([LEDGER, "cellbook.v1.EventService"], serving=serving)
        self.channel = open_channel(str(self.host.address))
        self.stub = ledger_pb2_grpc.LedgerServiceStub(self.channel)
        self.event_stub = event_pb2_grpc.EventServiceStub(self.channel)

    async def balance(self, metadata: Pairs = SERVICE, timeout_s: float | None = 10.0) -> ledger_pb2.GetBalanceResponse:
        request = ledger_pb2.GetBalanceRequest(user_id=USER)
        return await self.stub.GetBalance(request, metadata=metadata, timeout=timeout_s)

    async def failure(self, metadata: Pairs = SERVICE, timeout_s: float | None = 10.0) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await self.balance(metadata, timeout_s)
        return failed.value


def settings_in(folder: Path, **values: object) -> HostSettings:
    return HostSettings.model_validate({"data": folder, "drain_grace_ms": 5_000, **values})


@asynccontextmanager
async def running(
    folder: Path, *, clock: ClockExchange | None = None, default_timeout_s: float = 30.0, **values: object
) -> AsyncIterator[Shell]:
    shell = Shell(settings_in(folder, **values), clock, default_timeout_s)
    await shell.start()
    try:
        yield shell
    finally:
        await shell.channel.close()
        await shell.host.stop()
