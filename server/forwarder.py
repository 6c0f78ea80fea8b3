"""Makes a standby of the cell forward calls to the leader."""

from collections.abc import Sequence

from cells.store.ports import PeerUnknown
from server.peers import GrpcPeers
from server.shell.channels.client import forwarding_places
from server.shell.channels.forwarding import LeaderForwarder, LeaderUnknown
from server.shell.hosting.security import Security


def build_forwarder(cell: str, peers: GrpcPeers, security: Security) -> LeaderForwarder:
    """The cell's processes are those that the settings or the router list, as for any other cell."""

    async def endpoints() -> Sequence[str]:
        try:
            return await peers.endpoints(cell)
        except PeerUnknown as problem:
            raise LeaderUnknown(str(problem)) from None

    tls = security.certificates
    return LeaderForwarder(cell=cell, endpoints=endpoints, channels=forwarding_places(tls), proven=tls is not None)
