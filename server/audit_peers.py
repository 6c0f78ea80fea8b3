"""The other cells, as an audit asks them. Whoever does not answer is named, and never left out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import grpc.aio

from cellbook.v1.audit_pb2_grpc import AuditServiceStub
from cells.audit.cuts import Sides, SidesWanted
from cells.audit.trace import PEER_TIMEOUT_S, Answer, Search, Silent
from cells.domain.refusals import Refused, Unavailable
from cells.ports import PeerUnknown
from server.peers import GrpcPeers
from server.wire import books
from server.wire import trace as wire

# Of a page: the peer lets all that it is deciding become durable first.
CLEARING_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class AuditPeers:
    peers: GrpcPeers

    async def names(self) -> tuple[Sequence[str], str]:
        """Of the settings and the router; and why there may be more of them."""
        named = set(self.peers.static)
        if not self.peers.directory.router:
            return sorted(named), ""
        try:
            return sorted({*named, *await self.peers.directory.addresses()}), ""
        except Unavailable as error:
            return sorted(named), f"there may be more cells: {error.facts['problem']}"

    async def find(self, cell: str, search: Search, limit: int) -> Answer:
        request = wire.search_out(search, limit)
        with said_why():
            stub = AuditServiceStub(await self.peers.channel(cell))
            reply = await self.peers.caller.call(stub.FindEvents, request, to=cell, timeout_s=PEER_TIMEOUT_S)
            return wire.found_in(reply, cell)
        raise AssertionError

    async def sides(self, cell: str, wanted: SidesWanted) -> Sides:
        """The peer's clock has heard of the cut by the call itself: every call carries the clock. Raises Silent."""
        request = books.sides_wanted_out(wanted)
        with said_why():
            stub = AuditServiceStub(await self.peers.channel(cell))
            reply = await self.peers.caller.call(stub.ListClearing, request, to=cell, timeout_s=CLEARING_TIMEOUT_S)
            return books.sides_in(reply)
        raise AssertionError


@contextmanager
def said_why() -> Iterator[None]:
    """Whatever keeps a cell from answering is told as its silence."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise Silent(f"{error.code().name}: {error.details()}") from error
    except (PeerUnknown, Refused, ValueError) as error:
        raise Silent(str(error)) from error
