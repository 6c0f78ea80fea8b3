"""AuditService: checkpoints, proofs, exports, and the calls between cells as witnesses."""

from collections.abc import Sequence

from cellbook.v1 import audit_pb2 as pb
from cells.audit.export.exporter import Piece, Wanted
from cells.audit.proofs.prover import Given, Growth, Inclusion
from cells.audit.witness.cosigner import Asked
from cells.store.outcomes import OutcomePlace
from server.shell.fields.bounds import (
    COSIGNATURE,
    HASH,
    LOG_KEY,
    PATH,
    POSITION,
    POSITION_OR_NONE,
    PRINCIPAL_OR_NONE,
    SIGNED_NOTE,
    bytes_in,
    invalid,
    items_in,
    number_in,
    text_in,
)
from server.wire.common import parse_optional_uuid


def parse_size(size: int, field: str = "size", *, optional: bool = True) -> int:
    return number_in(size, field, POSITION_OR_NONE if optional else POSITION)


def checkpoint_to_proto(given: Given, keys: Sequence[str]) -> pb.GetCheckpointResponse:
    return pb.GetCheckpointResponse(
        checkpoint=given.checkpoint.text,
        size=given.checkpoint.size,
        sign_time_ms=int(given.checkpoint.signed_at.timestamp() * 1_000),
        position=given.position,
        last_size=given.last_size,
        keys=keys,
    )


def inclusion_to_proto(proof: Inclusion) -> pb.GetInclusionProofResponse:
    return pb.GetInclusionProofResponse(
        checkpoint=proof.checkpoint.text,
        size=proof.checkpoint.size,
        path=proof.path,
        event_json=proof.event,
        leaf_hash=proof.leaf_hash,
    )


def consistency_to_proto(growth: Growth) -> pb.GetConsistencyProofResponse:
    return pb.GetConsistencyProofResponse(
        old_checkpoint=growth.old.text, new_checkpoint=growth.new.text, path=growth.path
    )


def parse_wanted(request: pb.ExportRequest) -> Wanted:
    resumed, resumption = request.HasField("resumption"), request.resumption
    wanted = Wanted(
        from_position=number_in(request.from_position, "from_position", POSITION_OR_NONE) or 1,
        to_position=number_in(request.to_position, "to_position", POSITION_OR_NONE),
        resumed=resumed,
        whole=resumption.whole,
        after_command=_parse_last_outcome(resumption),
    )
    if resumed and not wanted.to_position:
        raise invalid("to_position", "is missing: an export goes on to the end that it began with")
    return wanted


def _parse_last_outcome(resumption: pb.ExportResumption) -> OutcomePlace | None:
    command_id = parse_optional_uuid(resumption.after_command_id, "resumption.after_command_id")
    principal = text_in(resumption.after_principal, "resumption.after_principal", PRINCIPAL_OR_NONE)
    return OutcomePlace(command_id, principal) if command_id is not None else None


def piece_to_proto(piece: Piece) -> pb.ExportResponse:
    return pb.ExportResponse(lines=piece.lines, position=piece.position, to_position=piece.to_position)


def parse_asked(request: pb.CosignRequest) -> Asked:
    items_in(request.path, "path", PATH)
    return Asked(
        key=text_in(request.key, "key", LOG_KEY),
        note=_parse_signed_note(request.checkpoint),
        old_size=parse_size(request.old_size, "old_size"),
        path=[bytes_in(step, "path", HASH) for step in request.path],
    )


def parse_cosignature(request: pb.AddCosignatureRequest) -> tuple[int, str]:
    size = parse_size(request.size, optional=False)
    line = request.cosignature.removesuffix("\n")
    return size, text_in(line, "cosignature", COSIGNATURE) + "\n"


def _parse_signed_note(text: str) -> str:
    """Consists of lines in C2SP's format; each line is checked like any other text."""
    text_in(text.replace("\n", ""), "checkpoint", SIGNED_NOTE)
    return text


def asked_to_proto(asked: Asked) -> pb.CosignRequest:
    return pb.CosignRequest(key=asked.key, checkpoint=asked.note, old_size=asked.old_size, path=asked.path)
