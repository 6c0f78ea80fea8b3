"""AuditService: checkpoints, proofs, and the log as a file."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from cellbook.v1 import audit_pb2 as pb
from cellbook.v1.audit_pb2_grpc import AuditServiceServicer
from server.services.accesses import note_access
from server.services.audit_parts import AuditParts, Context
from server.shell.call import current_call
from server.wire import proofs as wire


class ProofRpcs(AuditServiceServicer):
    parts: AuditParts

    async def GetCheckpoint(self, request: pb.GetCheckpointRequest, _context: Context) -> pb.GetCheckpointResponse:
        size, after = wire.size_in(request.size), wire.size_in(request.after_size, "after_size")
        given = await self.parts.proofs.prover.checkpoint(size, after)
        return wire.checkpoint_out(given, self.parts.proofs.exporter.keys)

    async def GetInclusionProof(
        self, request: pb.GetInclusionProofRequest, _context: Context
    ) -> pb.GetInclusionProofResponse:
        position, size = wire.size_in(request.position, "position", optional=False), wire.size_in(request.size)
        note_access(self.parts.cell.accesses, position)
        return wire.inclusion_out(await self.parts.proofs.prover.inclusion(position, size))

    async def GetConsistencyProof(
        self, request: pb.GetConsistencyProofRequest, _context: Context
    ) -> pb.GetConsistencyProofResponse:
        old_size = wire.size_in(request.old_size, "old_size", optional=False)
        new_size = wire.size_in(request.new_size, "new_size")
        return wire.consistency_out(await self.parts.proofs.prover.consistency(old_size, new_size))

    async def Export(self, request: pb.ExportRequest, _context: Context) -> AsyncGenerator[pb.ExportResponse, None]:
        note_access(self.parts.cell.accesses)
        async with aclosing(self.parts.proofs.exporter.pieces(wire.wanted_in(request))) as pieces:
            async for piece in pieces:
                yield wire.piece_out(piece)

    async def AddCosignature(self, request: pb.AddCosignatureRequest, _context: Context) -> pb.AddCosignatureResponse:
        await self.parts.proofs.cosignatures.add(*wire.cosignature_in(request))
        return pb.AddCosignatureResponse()

    async def Cosign(self, request: pb.CosignRequest, _context: Context) -> pb.CosignResponse:
        asked = wire.asked_in(request)
        return pb.CosignResponse(
            cosignature=await self.parts.proofs.witness.cosign(current_call().principal.name, asked)
        )
