"""A real cell behind a real gRPC server on a free port, with the real interceptor and policies."""

import os
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import Mock
from uuid import UUID, uuid4

import grpc.aio
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from cellbook.v1 import auction_pb2, ledger_pb2, types_pb2
from cells.audit.checks.log_watch import LogWatch
from cells.audit.export.exporter import Exporter
from cells.audit.history.questions import History
from cells.audit.proofs.checkpoint_signer import CheckpointSigner
from cells.audit.proofs.keys import new_keys
from cells.audit.proofs.prover import Prover
from cells.audit.reconcile.service import ReconciliationService
from cells.audit.verify.note import origin_of
from cells.audit.witness.cosigner import Cosignatures, Witness
from cells.audit.witness.cosigning import Cosigning
from cells.domain.refusals import Refused
from router.routing.routes import SERVED
from server.audit.build import audit_of
from server.contacts.handover import Handover
from server.process.clock import CellClock
from server.process.policies import POLICIES, QUEUED
from server.services.auctions import AuctionServicer
from server.services.audit import AuditServicer
from server.services.audit_parts import AuditParts, Proofs
from server.services.contacts import ContactServicer
from server.services.events import EventServicer
from server.services.ledger import LedgerServicer
from server.services.moves import MoveServicer
from server.services.operations import OperationsServicer
from server.services.sagas import SagaServicer
from server.services.settlement import SettlementServicer
from server.shell.calls.guard import CallGuard
from server.shell.calls.statuses import refusal_in
from server.shell.hosting.host import add_servicer
from server.shell.identity.principal import Role
from tests.doubles.history import MemoryHistoryLookups, MemoryTraceLookups
from tests.doubles.proofs import MemoryProofs
from tests.doubles.store import MemoryStore
from tests.integration.no_tables import reconciliation_of
from tests.local_cells import DirectAuditPeers, DirectPeers, FixedDirectory, LocalCell, build_cell, leading, open_user

if TYPE_CHECKING:
    from server.peers import GrpcPeers

HERE, THERE = "us-east", "eu-west"
TIMEOUT_S = 10.0
KEYS = new_keys(HERE, os.urandom)
Pairs = tuple[tuple[str, str], ...]
SHOP = (("cellbook-principal", "service/shop"),)
PEER = (("cellbook-principal", f"peer/{THERE}"),)
ROUTER = (("cellbook-principal", "router/router"),)
BANK = (("cellbook-principal", "treasury/bank"),)
OPERATOR = (("cellbook-principal", "operator/olga"),)
AUDITOR = (("cellbook-principal", "auditor/anna"),)
SUPPORT = (("cellbook-principal", "support/sue"),)

# Every RPC of a cell, by its path.
METHODS: dict[str, MethodDescriptor] = {
    f"/{service.full_name}/{method.name}": method
    for file in SERVED
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def path_of(rpc: str) -> str:
    """The full path of "Deposit": "/cellbook.v1.LedgerService/Deposit"."""
    return next(path for path in METHODS if path.endswith(f"/{rpc}"))


def usd(amount_minor: int) -> types_pb2.Money:
    return types_pb2.Money(currency="USD", amount_minor=amount_minor)


def new_id() -> str:
    return str(uuid4())


def as_user(user_id: object) -> Pairs:
    return (("cellbook-principal", f"user/{user_id}"),)


def deposit_of(
    user: object, amount_minor: int = 5, *, command_id: str = "", reference: str = ""
) -> ledger_pb2.DepositRequest:
    """Under a new id, unless one is given, and with a reference that no other has."""
    command_id = command_id or new_id()
    return ledger_pb2.DepositRequest(
        command_id=command_id, user_id=str(user), amount=usd(amount_minor), external_reference=reference or command_id
    )


def bid_of(auction: str, bidder: object, amount_minor: int) -> auction_pb2.PlaceBidRequest:
    return auction_pb2.PlaceBidRequest(
        command_id=new_id(), auction=auction, bidder_user_id=str(bidder), amount=usd(amount_minor)
    )


class Calls:
    """Any RPC of a cell, over a channel to it."""

    __slots__ = ()
    channel: grpc.aio.Channel

    async def ask(
        self,
        rpc: str,
        content: Mapping[str, object] | None = None,
        *,
        by: Pairs | None = (),
        timeout_s: float = TIMEOUT_S,
        **fields: object,
    ) -> Any:  # noqa: ANN401 - any answer
        """Calls by name: ids in any form; a command gets a new id unless it has one.

        `by` is a principal that may, unless it is given; None: nobody.
        """
        kind = GetMessageClass(METHODS[path_of(rpc)].input_type)
        own = {"command_id": new_id()} if "command_id" in kind.DESCRIPTOR.fields_by_name else {}
        said: Any = {**own, **(content or {}), **fields}
        request = kind(**{name: str(value) if isinstance(value, UUID) else value for name, value in said.items()})
        return await self.call(request, by=by, timeout_s=timeout_s)

    async def call(self, request: Message, *, by: Pairs | None = (), timeout_s: float = TIMEOUT_S) -> Any:  # noqa: ANN401
        """As a principal that may. Of a stream, the first answer."""
        call = self.send(request, by=by, timeout_s=timeout_s)
        if not isinstance(call, grpc.aio.UnaryStreamCall):
            return await call
        try:
            return await call.read()
        finally:
            call.cancel()

    def send(self, request: Message, *, by: Pairs | None = (), timeout_s: float | None = None) -> Any:  # noqa: ANN401 - a call
        """Begins the call of a request, whose type names its RPC."""
        path = path_of(type(request).__name__.removesuffix("Request"))
        method = METHODS[path]
        open_call: Any = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        return open_call(
            path,
            request_serializer=GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )(request, metadata=principal_for(path) if by == () else by, timeout=timeout_s)

    async def pages(self, rpc: str, content: Mapping[str, object] | None = None, **fields: Any) -> list[Any]:  # noqa: ANN401
        """All answers of an RPC that answers page by page."""
        pages = [await self.ask(rpc, content, **fields)]
        while pages[-1].next_page_token:
            pages.append(await self.ask(rpc, content, **fields, page_token=pages[-1].next_page_token))
        return pages


@dataclass(frozen=True, slots=True)
class Over(Calls):
    channel: grpc.aio.Channel


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig(Calls):
    """`cell` is served; `there` is its neighbour, called directly."""

    cell: LocalCell
    store: MemoryStore
    there: LocalCell
    peers: DirectPeers
    directory: FixedDirectory
    channel: grpc.aio.Channel
    address: str
    guard: CallGuard
    history: History
    reconciliation: ReconciliationService
    # At home in the served cell, with 1,000.00 USD each.
    ann: UUID
    ben: UUID
    # At home in the neighbour, with as much.
    carl: UUID

    async def auction(self, *, increment_minor: int = 0) -> str:
        """The name of a new auction by ann, over the wire: from 1.00 USD, ending in an hour."""
        asset = (await self.ask("RegisterAsset", owner_user_id=self.ann, description="a lamp")).asset
        return await self.auction_of(asset, increment_minor=increment_minor)

    async def auction_of(self, asset: str, **terms: object) -> str:
        own = {"asset": asset, "seller_user_id": self.ann, "opening_price": usd(100)}
        ends = {"end_time_ms": self.cell.time.clock.wall_ms() + 3_600_000}
        return str((await self.ask("CreateAuction", {**own, **ends, **terms})).auction)

    async def bid(self, auction: str, bidder: UUID, amount_minor: int) -> auction_pb2.PlaceBidResponse:
        placed: auction_pb2.PlaceBidResponse = await self.ask(
            "PlaceBid", auction=auction, bidder_user_id=bidder, amount=usd(amount_minor)
        )
        return placed


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with serving() as served:
        yield served


async def refusal_of(call: Awaitable[object]) -> Refused:
    """The refusal that an awaited call is answered with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    refused = refusal_in(caught.value)
    assert refused is not None, caught.value
    return refused


async def status_of(call: Awaitable[object]) -> grpc.StatusCode:
    """The gRPC status with which an awaited call fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


def principal_for(path: str) -> Pairs:
    """A principal that the policy lets pass."""
    roles = POLICIES[path].roles
    by_role = {Role.SERVICE: SHOP, Role.TREASURY: BANK, Role.PEER: PEER, Role.OPERATOR: OPERATOR}
    return next(principal for role, principal in by_role.items() if role in roles)


def audit_parts(cell: LocalCell, store: MemoryStore, peers: DirectPeers) -> AuditParts:
    """The audit of a cell in memory, and of its neighbours."""
    return audit_of(
        cell,
        MemoryTraceLookups(store),
        MemoryHistoryLookups(store),
        DirectAuditPeers(cell.name, peers),
        proofs=proofs_of(cell, store),
        reconciliation=reconciliation_of(cell),
    )


def proofs_of(cell: LocalCell, store: MemoryStore) -> Proofs:
    """The proofs of a cell in memory, which signs what it has within a moment; no witness is asked."""
    memory, clock = MemoryProofs(store), cell.time.clock
    checkpoint_signer = CheckpointSigner(
        store=memory, time=cell.time, key=KEYS.log, checkpoint_file=None, events_max=1, pause_max_s=0.1
    )
    cell.tasks.append(checkpoint_signer)
    keys = [str(KEYS.log.verifier), str(KEYS.witness.verifier)]
    return Proofs(
        checkpoint_signer=checkpoint_signer,
        cosigning=Cosigning(checkpoint_signer=checkpoint_signer, proofs=memory, witnesses=Mock()),
        log_watch=LogWatch(checkpoint_signer=checkpoint_signer, proofs=memory, events_per_s=0),
        prover=Prover(cell=cell.name, store=store, proofs=memory),
        exporter=Exporter(cell=cell.name, origin=origin_of(cell.name), keys=keys, proofs=memory),
        witness=Witness(cell=cell.name, key=KEYS.witness, proofs=memory, clock=clock),
        cosignatures=Cosignatures(cell=cell.name, keys=(), proofs=memory, clock=clock),
    )


def add_services(cell: LocalCell, server: grpc.aio.Server, audit: AuditParts) -> None:
    clock = cell.time.clock
    add_servicer(LedgerServicer(cell, clock, audit.history), server)
    add_servicer(AuctionServicer(cell, clock, audit.history), server)
    add_servicer(SettlementServicer(cell, clock), server)
    add_servicer(SagaServicer(cell, cell.engine, audit.history), server)
    add_servicer(EventServicer(cell, audit.history), server)
    add_servicer(ContactServicer(cell, None), server)
    add_servicer(AuditServicer(audit), server)
    handover = Handover(cell=cell.name, vault=None, peers=cast("GrpcPeers", None))
    add_servicer(MoveServicer(cell, clock, handover), server)
    add_servicer(OperationsServicer(cell, cell.engine.steps, audit, lambda: cell.leadership.standing_by), server)


@asynccontextmanager
async def serving() -> AsyncIterator[Rig]:
    """Two cells that lead, one of them served."""
    peers, directory, store = DirectPeers(), FixedDirectory(), MemoryStore(HERE)
    cell = build_cell(HERE, store, peers=peers, directory=directory)
    there = build_cell(THERE, MemoryStore(THERE), peers=peers, directory=directory)
    guard = CallGuard(POLICIES, clock=CellClock(time=cell.time), queued=QUEUED, check_room=cell.check_room)
    server = grpc.aio.server(interceptors=[guard])
    audit = audit_parts(cell, store, peers)
    add_services(cell, server, audit)
    port = server.add_insecure_port("127.0.0.1:0")
    async with leading(cell, there):
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield Rig(
                    cell=cell,
                    store=store,
                    there=there,
                    peers=peers,
                    directory=directory,
                    channel=channel,
                    address=f"127.0.0.1:{port}",
                    guard=guard,
                    history=audit.history,
                    reconciliation=audit.reconciliation,
                    ann=await open_user(cell, 100_000, directory),
                    ben=await open_user(cell, 100_000, directory),
                    carl=await open_user(there, 100_000, directory),
                )
        finally:
            store.gate.set()
            guard.streams.end_all()
            await server.stop(1.0)
