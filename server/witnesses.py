"""The other cells, as witnesses of this cell's checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass

import grpc.aio

from cellbook.v1.audit_pb2_grpc import AuditServiceStub
from cells.audit.witness.cosigner import Asked
from cells.domain.refusals import Refused
from cells.store.ports import PeerUnknown
from server.audit_peers import AuditPeers
from server.shell.statuses import refusal_from
from server.wire import proofs as wire

TIMEOUT_S = 5.0
ALL = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcWitnesses:
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
        try:
            stub = AuditServiceStub(await self.peers.peers.channel(witness))
            request = wire.asked_to_proto(asked)
            reply = await self.peers.peers.caller.call(stub.Cosign, request, to=witness, timeout_s=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            refused = refusal_from(error)
            if refused is not None:
                raise refused from error
            raise PeerUnknown(f"{witness}: {error.code().name}: {error.details()}") from error
        except Refused as error:
            # The clock in the answer was refused, so the answer is unknown.
            raise PeerUnknown(f"{witness}: {error}") from error
        return reply.cosignature
