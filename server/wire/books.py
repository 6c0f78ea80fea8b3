"""Reconciliations, rebuilds and the sides of movements between cells, on the wire."""

from cellbook.v1 import audit_pb2 as pb
from cellbook.v1 import types_pb2
from cells.audit.reconcile.clearing import Side
from cells.audit.reconcile.cuts import Sides, SidesWanted
from cells.audit.reconcile.findings import Finding, Progress
from cells.audit.reconcile.rebuild import Rebuilt
from cells.audit.reconcile.service import Reconciliation
from cells.domain.refusals import FieldInvalid
from cells.domain.time.hlc import Stamp
from cells.uuids import uuid_from
from server.shell.fields.bounds import (
    CLEARING_IDS,
    EVENTS_A_SECOND,
    LOGICAL,
    NOTE,
    POSITION_OR_NONE,
    STAMP,
    items_in,
    number_in,
    text_in,
)
from server.wire.common import id_to_proto, money_to_proto, parse_cell, parse_optional_uuid, parse_uuid, stamp_to_proto


def progress_to_proto(progress: Progress) -> pb.AuditProgress:
    return pb.AuditProgress(stage=progress.stage, done=progress.done, total=progress.total)


def finding_to_proto(finding: Finding) -> pb.AuditFinding:
    return pb.AuditFinding(check=finding.check.value, row=finding.row, expected=finding.expected, found=finding.found)


def summary_to_proto(found: Reconciliation) -> pb.ReconcileSummary:
    report, clearing = found.report, found.clearing
    return pb.ReconcileSummary(
        cell=report.cell,
        from_position=report.from_position,
        position=report.position,
        full=report.full,
        took_ms=report.took_ms,
        finding_count=found.findings_count,
        halted_streams=[str(each) for each in report.halted],
        cut=stamp_to_proto(clearing.until),
        clearing_cells=clearing.cells,
        open_movement_count=clearing.open_count,
        missing=[pb.MissingCell(cell=cell, problem=problem) for cell, problem in sorted(clearing.missing.items())],
    )


def rebuilt_to_proto(rebuilt: Rebuilt) -> pb.RebuildSummary:
    return pb.RebuildSummary(
        cell=rebuilt.after.cell,
        position=rebuilt.after.position,
        found_count=rebuilt.before.findings_count,
        left_count=rebuilt.after.findings_count,
        state_count=rebuilt.states_count,
        house_count=rebuilt.house_count,
        row_count=rebuilt.rows_count,
        row_problem=rebuilt.rows_problem,
    )


def parse_events_per_s(request: pb.ReconcileRequest) -> int:
    return number_in(request.events_per_s, "events_per_s", EVENTS_A_SECOND)


def parse_note(request: pb.RebuildRequest) -> str:
    return text_in(request.note, "note", NOTE)


# --- between cells ----------------------------------------------------------------------------------------------


def parse_sides_wanted(request: pb.ListClearingRequest) -> SidesWanted:
    items_in(request.clearing_ids, "clearing_ids", CLEARING_IDS)
    sagas_count, ids_count = len(request.saga_ids), len(request.clearing_ids)
    if sagas_count not in {0, ids_count}:
        raise FieldInvalid(field="saga_ids", problem=f"must be as many as clearing_ids, {ids_count}", value=sagas_count)
    return SidesWanted(
        peer=parse_cell(request.peer, "peer"),
        until=Stamp(
            number_in(request.until.physical_ms, "until.physical_ms", STAMP),
            number_in(request.until.logical, "until.logical", LOGICAL),
        ),
        after_position=number_in(request.after_position, "after_position", POSITION_OR_NONE),
        after_id=parse_optional_uuid(request.page_token, "page_token"),
        ids=[parse_uuid(each, "clearing_ids") for each in request.clearing_ids],
        sagas=[parse_optional_uuid(each, "saga_ids") for each in request.saga_ids],
    )


def sides_wanted_to_proto(wanted: SidesWanted) -> pb.ListClearingRequest:
    return pb.ListClearingRequest(
        peer=wanted.peer,
        until=stamp_to_proto(wanted.until),
        after_position=wanted.after_position,
        page_token=id_to_proto(wanted.after_id),
        clearing_ids=[str(each) for each in wanted.ids],
        saga_ids=[id_to_proto(each) for each in wanted.sagas],
    )


def sides_to_proto(sides: Sides) -> pb.ListClearingResponse:
    last = sides.sides[-1].clearing_id if sides.more else None
    return pb.ListClearingResponse(
        sides=[_side_to_proto(side) for side in sides.sides], position=sides.position, next_page_token=id_to_proto(last)
    )


def _side_to_proto(side: Side) -> pb.ClearingSide:
    return pb.ClearingSide(
        clearing_id=str(side.clearing_id),
        sum=money_to_proto(side.currency, side.amount_minor),
        entry_count=side.entries_count,
        saga_id=id_to_proto(side.saga_id),
        saga_ended=side.ended,
        sum_count=side.sums_count,
    )


def parse_sides(reply: pb.ListClearingResponse) -> Sides:
    """Raises ValueError for content that no cell sends."""
    return Sides(reply.position, [_parse_side(side) for side in reply.sides], more=bool(reply.next_page_token))


def _parse_side(side: pb.ClearingSide) -> Side:
    money: types_pb2.Money = side.sum
    return Side(
        clearing_id=uuid_from(side.clearing_id),
        currency=money.currency,
        amount_minor=money.amount_minor,
        entries_count=side.entry_count,
        saga_id=uuid_from(side.saga_id) if side.saga_id else None,
        ended=side.saga_ended if side.HasField("saga_ended") else None,
        sums_count=side.sum_count,
    )
