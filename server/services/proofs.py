"""AuditService: checkpoints, proofs, and the log as a file."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from cellbook.v1 import audit_pb2 as pb
from cellbook.v1.audit_pb2_grpc import AuditServiceServicer
from server.services.accesses import note_access
from server.services.audit_parts import AuditParts, Context
from server.shell.calls.call import current_call
from server.wire import proofs as wire


class ProofRpcs(AuditServiceServicer):
    parts: AuditParts

    async def GetCheckpoint(self, request: pb.GetCheckpointRequest, _context: Context) -> pb.GetCheckpointResponse:
        size, after = wire.parse_size(request.size), wire.parse_size(request.after_size, "after_size")
        given = await self.parts.proofs.prover.checkpoint(size, after)
        return wire.checkpoint_to_proto(given, self.parts.proofs.exporter.keys)

    async def GetInclusionProof(
        self, request: pb.GetInclusionProofRequest, _context: Context
    ) -> pb.GetInclusionProofResponse:
        position, size = wire.parse_size(request.position, "position", optional=False), wire.parse_size(request.size)
        note_access(self.parts.cell.accesses, position)
        return wire.inclusion_to_proto(await self.parts.proofs.prover.inclusion(position, size))

    async def GetConsistencyProof(
        self, request: pb.GetConsistencyProofRequest, _context: Context
    ) -> pb.GetConsistencyProofResponse:
        old_size = wire.parse_size(request.old_size, "old_size", optional=False)
        new_size = wire.parse_size(request.new_size, "new_size")
        return wire.consistency_to_proto(await self.parts.proofs.prover.consistency(old_size, new_size))

    async def Export(self, request: pb.ExportRequest, _context: Context) -> AsyncGenerator[pb.ExportResponse, None]:
        note_access(self.parts.cell.accesses)
        async with aclosing(self.parts.proofs.exporter.pieces(wire.parse_wanted(request))) as pieces:
            async for piece in pieces:
                yield wire.piece_to_proto(piece)

    async def AddCosignature(self, request: pb.AddCosignatureRequest, _context: Context) -> pb.AddCosignatureResponse:
        await self.parts.proofs.cosignatures.add(*wire.parse_cosignature(request))
        return pb.AddCosignatureResponse()

    async def Cosign(self, request: pb.CosignRequest, _context: Context) -> pb.CosignResponse:
        asked = wire.parse_asked(request)
        return pb.CosignResponse(
            cosignature=await self.parts.proofs.witness.cosign(current_call().principal.name, asked)
        )
