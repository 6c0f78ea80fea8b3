"""A router to test, over real sockets and a real PostgreSQL, with cells that can only open accounts."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Any, Protocol

import grpc
import grpc.aio
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from cellbook.v1 import ledger_pb2, router_pb2, router_pb2_grpc
from cells.domain.refusals import AlreadyOpen
from router.__main__ import hosted
from router.directory.cells import CellEntry
from router.settings import RouterSettings
from server.shell.calls.statuses import DOMAIN, details_metadata, facts_in, to_status

SHOP = "service/shop"
OPERATOR = (("cellbook-principal", "operator/test"),)

Answer = ledger_pb2.OpenAccountResponse
Context = grpc.aio.ServicerContext[Any, Any]


class Behaviour(Enum):
    OPENS = auto()
    # Does nothing, and says that it cannot.
    FAILS = auto()
    # Opens the account, and the answer is lost on the way.
    LOSES_REPLY = auto()
    # Takes the call and does nothing, for ever.
    HANGS = auto()
    # Opened it long ago, and has forgotten under which command.
    ALREADY_OPEN = auto()
    DENIES = auto()


@dataclass
class FakeServer:
    """Listens on a free port; after `stop`, on the same one again."""

    address: str = field(default="127.0.0.1:0", kw_only=True)
    _server: grpc.aio.Server | None = field(default=None, kw_only=True)

    async def start(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self.add_to(self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port(self.address)}"
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds its services."""
        raise NotImplementedError

    @property
    def server(self) -> grpc.aio.Server:
        """For more services, of one that runs: those added now count from the next call on."""
        assert self._server is not None
        return self._server


@dataclass
class FakeCell(FakeServer):
    name: str
    region: str
    behaviour: Behaviour = Behaviour.OPENS
    # User -> the ids of the commands by which its account was opened; each opens it once, as in a real cell.
    opened: dict[str, set[str]] = field(default_factory=dict)
    calls: list[ledger_pb2.OpenAccountRequest] = field(default_factory=list)
    principals: list[str] = field(default_factory=list)
    timeouts_s: list[float] = field(default_factory=list)
    called: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def setting(self) -> str:
        return f"{self.name}={self.region}={self.address}"

    @property
    def entry(self) -> CellEntry:
        return CellEntry(name=self.name, region=self.region, endpoints=tuple(self.address.split("+")))

    def add_to(self, server: grpc.aio.Server) -> None:
        handler = grpc.unary_unary_rpc_method_handler(
            self.open_account,
            request_deserializer=ledger_pb2.OpenAccountRequest.FromString,
            response_serializer=Answer.SerializeToString,
        )
        service = grpc.method_handlers_generic_handler("cellbook.v1.LedgerService", {"OpenAccount": handler})
        server.add_generic_rpc_handlers((service,))

    async def open_account(self, request: ledger_pb2.OpenAccountRequest, context: Context) -> Answer:
        self.calls.append(request)
        metadata = context.invocation_metadata() or ()
        self.principals += [str(value) for key, value in metadata if key == "cellbook-principal"]
        self.timeouts_s.append(context.time_remaining() or 0.0)
        self.called.set()
        match self.behaviour:
            case Behaviour.FAILS:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
            case Behaviour.DENIES:
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")
            case Behaviour.HANGS:
                await asyncio.Event().wait()
            case Behaviour.ALREADY_OPEN:
                status = to_status(AlreadyOpen(user_id=request.user_id))
                context.set_trailing_metadata(tuple(details_metadata(status)))
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, status.message)
            case Behaviour.OPENS | Behaviour.LOSES_REPLY:
                self.opened.setdefault(request.user_id, set()).add(request.command_id)
        if self.behaviour is Behaviour.LOSES_REPLY:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "lost")
        return Answer()


@asynccontextmanager
async def cells(*named: str) -> AsyncIterator[list[FakeCell]]:
    """Running cells, by name and region: "eu-west=eu"."""
    fakes = [FakeCell(name, region) for name, _, region in (text.partition("=") for text in named)]
    try:
        for fake in fakes:
            await fake.start()
        yield fakes
    finally:
        for fake in fakes:
            await fake.stop()


class Named(Protocol):
    """A cell that settings can name."""

    @property
    def entry(self) -> CellEntry: ...


@dataclass(frozen=True, slots=True)
class Client:
    address: str
    channel: grpc.aio.Channel
    stub: "router_pb2_grpc.RouterServiceAsyncStub"

    async def register(
        self, user_id: str, region: str = "", *, principal: str = SHOP, timeout_s: float = 10.0
    ) -> router_pb2.RegisterUserResponse:
        request = router_pb2.RegisterUserRequest(user_id=user_id, region=region)
        return await self.stub.RegisterUser(request, metadata=_as(principal), timeout=timeout_s)

    async def resolve(self, user_id: str, *, principal: str = SHOP) -> router_pb2.ResolveUserResponse:
        request = router_pb2.ResolveUserRequest(user_id=user_id)
        return await self.stub.ResolveUser(request, metadata=_as(principal), timeout=10)

    async def list_cells(self, *, principal: str = SHOP) -> list[router_pb2.Cell]:
        request = router_pb2.ListCellsRequest()
        return list((await self.stub.ListCells(request, metadata=_as(principal), timeout=10)).cells)

    async def operate(self, rpc: str, **fields: Any) -> Any:  # noqa: ANN401 - of any RPC
        """The answer to an operator."""
        request = getattr(router_pb2, f"{rpc}Request")(**fields)
        return await getattr(self.stub, rpc)(request, metadata=OPERATOR, timeout=10)

    async def change(self, rpc: str, name: str, **fields: Any) -> Any:  # noqa: ANN401 - as above
        """The cell after an operator's change; None: it is removed."""
        return getattr(await self.operate(rpc, name=name, **fields), "cell", None)

    async def is_read_only(self) -> bool:
        answer = await self.stub.ListCells(router_pb2.ListCellsRequest(), metadata=_as(SHOP), timeout=10)
        return answer.read_only

    async def is_writable(self) -> bool:
        return not await self.is_read_only()


def _as(principal: str) -> tuple[tuple[str, str], ...]:
    return (("cellbook-principal", principal),)


@asynccontextmanager
async def client_of(address: str) -> AsyncIterator[Client]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield Client(address, channel, router_pb2_grpc.RouterServiceStub(channel))


@asynccontextmanager
async def router(dsn: str, fakes: Iterable[Named], *, snapshot: Path | None = None) -> AsyncIterator[Client]:
    """A router within this process, all of it real; `dsn` names a database of its own."""
    settings = RouterSettings(
        dsn=dsn, cells=tuple(fake.entry for fake in fakes), drain_grace_ms=1_000, snapshot=snapshot
    )
    async with hosted(settings) as host:
        try:
            async with client_of(str(host.address)) as client:
                yield client
        finally:
            await host.stop()


def new_user() -> str:
    return str(uuid.uuid4())


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    code: grpc.StatusCode
    message: str
    reason: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    fields: list[str] = field(default_factory=list)
    retry_ms: int | None = None


async def refused(call: Awaitable[object]) -> Refusal:
    """What a call that must fail was answered with."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return _refusal(error)
    raise AssertionError(f"it was answered: {answer}")


def _refusal(error: grpc.aio.AioRpcError) -> Refusal:
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    details = rpc_status.from_call(error)  # type: ignore[arg-type]
    has_retry = False
    for detail in details.details if details is not None else ():
        detail.Unpack(info)
        detail.Unpack(bad)
        has_retry = detail.Unpack(retry) or has_retry
    assert info.domain in ("", DOMAIN)
    return Refusal(
        code=error.code(),
        message=error.details() or "",
        reason=info.reason,
        facts=facts_in(info),
        fields=[violation.field for violation in bad.field_violations],
        retry_ms=retry.retry_delay.ToMilliseconds() if has_retry else None,
    )
