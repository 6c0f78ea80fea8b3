"""The other cells, as an audit asks them. A cell that does not answer is named, never left out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import grpc.aio

from cellbook.v1.audit_pb2_grpc import AuditServiceStub
from cells.audit.history.trace import PEER_TIMEOUT_S, Answer, Search, Silent
from cells.audit.reconcile.cuts import Sides, SidesWanted
from cells.domain.refusals import Refused, Unavailable
from cells.store.ports import PeerUnknown
from server.peers import GrpcPeers
from server.wire import books
from server.wire import trace as wire

# For one page: the peer first waits until its current batch is durable.
CLEARING_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class AuditPeers:
    peers: GrpcPeers

    async def names(self) -> tuple[Sequence[str], str]:
        """Cells of the settings and the router; and the reason why there may be more."""
        named = set(self.peers.static)
        if not self.peers.directory.router:
            return sorted(named), ""
        try:
            return sorted({*named, *await self.peers.directory.addresses()}), ""
        except Unavailable as error:
            return sorted(named), f"there may be more cells: {error.facts['problem']}"

    async def find(self, cell: str, search: Search, limit: int) -> Answer:
        request = wire.search_to_proto(search, limit)
        with said_why():
            stub = AuditServiceStub(await self.peers.channel(cell))
            reply = await self.peers.caller.call(stub.FindEvents, request, to=cell, timeout_s=PEER_TIMEOUT_S)
            return wire.parse_found(reply, cell)
        raise AssertionError

    async def sides(self, cell: str, wanted: SidesWanted) -> Sides:
        """The call itself brings the cut to the peer's clock, because every call carries a stamp. Raises Silent."""
        request = books.sides_wanted_to_proto(wanted)
        with said_why():
            stub = AuditServiceStub(await self.peers.channel(cell))
            reply = await self.peers.caller.call(stub.ListClearing, request, to=cell, timeout_s=CLEARING_TIMEOUT_S)
            return books.parse_sides(reply)
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
