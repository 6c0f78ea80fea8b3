"""The other cells, as an audit and its witnesses ask them. A cell that does not answer is named, never left out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import grpc.aio
from google.protobuf.message import Message

from cellbook.v1 import audit_pb2 as pb
from cellbook.v1.audit_pb2_grpc import AuditServiceStub
from cells.audit.history.trace import PEER_TIMEOUT_S, Answer, Search, Silent
from cells.audit.reconcile.cuts import Sides, SidesWanted
from cells.audit.witness.cosigner import Asked
from cells.domain.refusals import Refused
from cells.store.ports import PeerUnknown
from server.peers import GrpcPeers
from server.shell.calls.statuses import refusal_from
from server.wire import audit
from server.wire import trace as wire
from server.wire.convert import to_proto

if TYPE_CHECKING:
    from cellbook.v1.audit_pb2_grpc import AuditServiceAsyncStub

# For one page: the peer first waits until its current batch is durable.
CLEARING_TIMEOUT_S = 10.0
COSIGN_TIMEOUT_S = 5.0
ALL = "*"

Reply = TypeVar("Reply", bound=Message)


@dataclass(frozen=True, slots=True)
class AuditPeers:
    peers: GrpcPeers

    async def names(self) -> tuple[Sequence[str], str]:
        """Cells of the settings and the router; and the reason why there may be more."""
        locations = self.peers.locations
        if not locations.routers:
            return sorted(locations.static), ""
        try:
            return sorted({*locations.static, *await locations.list_cells()}), ""
        except grpc.aio.AioRpcError as error:
            return sorted(locations.static), f"there may be more cells: {error.details()}"

    async def call(
        self,
        cell: str,
        method: "Callable[[AuditServiceAsyncStub], grpc.aio.UnaryUnaryMultiCallable[Any, Reply]]",
        request: Message,
        timeout_s: float,
    ) -> Reply:
        """`method` picks one of AuditService. Raises AioRpcError, PeerUnknown, Refused."""
        stub = AuditServiceStub(await self.peers.channel(cell))
        return await self.peers.caller.call(method(stub), request, to=cell, timeout_s=timeout_s)

    async def find(self, cell: str, search: Search, limit: int) -> Answer:
        """Raises Silent."""
        request = to_proto(pb.FindEventsRequest, search, event_max=limit)
        with said_why():
            reply = await self.call(cell, lambda stub: stub.FindEvents, request, PEER_TIMEOUT_S)
            return wire.parse_found(reply, cell)
        raise AssertionError

    async def sides(self, cell: str, wanted: SidesWanted) -> Sides:
        """The call itself brings the cut to the peer's clock, because every call carries a stamp. Raises Silent."""
        request = audit.sides_wanted_to_proto(wanted)
        with said_why():
            reply = await self.call(cell, lambda stub: stub.ListClearing, request, CLEARING_TIMEOUT_S)
            return audit.parse_sides(reply)
        raise AssertionError


@contextmanager
def said_why() -> Iterator[None]:
    """Reports any error that keeps a cell from answering as silence of the cell."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise Silent(f"{error.code().name}: {error.details()}") from error
    except (PeerUnknown, Refused, ValueError) as error:
        raise Silent(str(error)) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcWitnesses:
    """The other cells, as witnesses of this cell's checkpoints."""

    cell: str
    peers: AuditPeers
    # As in the setting: names, or "*" for every other known cell.
    wanted: Sequence[str]

    async def names(self) -> Sequence[str]:
        if ALL not in self.wanted:
            return self.wanted
        known, _ = await self.peers.names()
        return [name for name in known if name != self.cell]

    async def cosign(self, witness: str, asked: Asked) -> str:
        request = to_proto(pb.CosignRequest, asked, checkpoint=asked.note)
        try:
            reply = await self.peers.call(witness, lambda stub: stub.Cosign, request, COSIGN_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            refused = refusal_from(error)
            if refused is not None:
                raise refused from error
            raise PeerUnknown(f"{witness}: {error.code().name}: {error.details()}") from error
        except Refused as error:
            # The clock in the answer was refused, so the answer is unknown.
            raise PeerUnknown(f"{witness}: {error}") from error
        return reply.cosignature
