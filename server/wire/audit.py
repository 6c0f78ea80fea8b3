"""AuditService: reconciliations, movements between cells, checkpoints and proofs, exports, recorded reads by staff."""

from collections.abc import Sequence

from cellbook.v1 import audit_pb2 as pb
from cells.audit.export.exporter import Wanted
from cells.audit.proofs.prover import Given, Inclusion
from cells.audit.reconcile.clearing import Side
from cells.audit.reconcile.cuts import Sides, SidesWanted
from cells.audit.reconcile.rebuild import Rebuilt
from cells.audit.reconcile.service import Reconciliation
from cells.audit.witness.cosigner import Asked
from cells.domain.refusals import FieldInvalid
from cells.store.outcomes import OutcomePlace
from server.shell.fields.bounds import (
    COSIGNATURE,
    POSITION,
    POSITION_OR_NONE,
    PRINCIPAL_OR_NONE,
    SIGNED_NOTE,
    invalid,
    number_in,
    text_in,
)
from server.shell.fields.parse import parse_optional_uuid
from server.wire.convert import parse, parse_reply, to_proto
from server.wire.trace import missing_to_proto

# --- the books --------------------------------------------------------------------------------------------------------


def summary_to_proto(found: Reconciliation) -> pb.ReconcileSummary:
    report, clearing = found.report, found.clearing
    return to_proto(
        pb.ReconcileSummary,
        report,
        finding_count=found.findings_count,
        halted_streams=report.halted,
        cut=clearing.until,
        clearing_cells=clearing.cells,
        open_movement_count=clearing.open_count,
        missing=missing_to_proto(clearing.missing),
    )


def rebuilt_to_proto(rebuilt: Rebuilt) -> pb.RebuildSummary:
    return to_proto(
        pb.RebuildSummary,
        rebuilt.after,
        found_count=rebuilt.before.findings_count,
        left_count=rebuilt.after.findings_count,
        state_count=rebuilt.states_count,
        house_count=rebuilt.house_count,
        row_count=rebuilt.rows_count,
        row_problem=rebuilt.rows_problem,
    )


def parse_sides_wanted(request: pb.ListClearingRequest) -> SidesWanted:
    wanted = parse(SidesWanted, request, after_id=parse_optional_uuid(request.page_token, "page_token"))
    given, ids_count = len(wanted.saga_ids), len(wanted.clearing_ids)
    if given not in {0, ids_count}:
        raise FieldInvalid(field="saga_ids", problem=f"must be as many as clearing_ids, {ids_count}", value=given)
    return wanted


def sides_wanted_to_proto(wanted: SidesWanted) -> pb.ListClearingRequest:
    saga_ids = [each or "" for each in wanted.saga_ids]
    return to_proto(pb.ListClearingRequest, wanted, page_token=wanted.after_id, saga_ids=saga_ids)


def parse_sides(reply: pb.ListClearingResponse) -> Sides:
    """Raises ValueError for content that no cell sends."""
    sides = [
        parse_reply(Side, side, currency=side.sum.currency, amount_minor=side.sum.amount_minor) for side in reply.sides
    ]
    return Sides(reply.position, sides, more=bool(reply.next_page_token))


# --- checkpoints and proofs -------------------------------------------------------------------------------------------


def parse_size(size: int, field: str = "size", *, optional: bool = True) -> int:
    return number_in(size, field, POSITION_OR_NONE if optional else POSITION)


def checkpoint_to_proto(given: Given, keys: Sequence[str]) -> pb.GetCheckpointResponse:
    checkpoint = given.checkpoint
    return to_proto(
        pb.GetCheckpointResponse,
        given,
        checkpoint=checkpoint.text,
        size=checkpoint.size,
        sign_time_ms=int(checkpoint.signed_at.timestamp() * 1_000),
        keys=keys,
    )


def inclusion_to_proto(proof: Inclusion) -> pb.GetInclusionProofResponse:
    checkpoint = proof.checkpoint
    return to_proto(
        pb.GetInclusionProofResponse, proof, checkpoint=checkpoint.text, size=checkpoint.size, event_json=proof.event
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


def parse_asked(request: pb.CosignRequest) -> Asked:
    # It consists of lines in C2SP's format; each line is checked like any other text.
    text_in(request.checkpoint.replace("\n", ""), "checkpoint", SIGNED_NOTE)
    return parse(Asked, request, note=request.checkpoint)


def parse_cosignature(request: pb.AddCosignatureRequest) -> tuple[int, str]:
    size = parse_size(request.size, optional=False)
    line = request.cosignature.removesuffix("\n")
    return size, text_in(line, "cosignature", COSIGNATURE) + "\n"
