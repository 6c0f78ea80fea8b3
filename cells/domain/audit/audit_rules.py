"""Records in the log that an audit found something wrong, and what was repaired."""

from typing import assert_never

from cells.domain.audit.events import (
    AccessesRecorded,
    AuditEvents,
    ProjectionsRebuilt,
    RebuiltState,
    ReconciliationFailed,
)
from cells.domain.commands import AuditRecord, RebuildProjections, RecordAccesses, ReportMismatches
from cells.domain.decision import Context, Decision, UncommittedEvent, View
from cells.domain.values import Kind, Ref


def record_audit(command: AuditRecord, _: View, context: Context) -> Decision:
    """States are accepted as given: only this cell's audit supplies them, from a replay of its log."""
    event: AuditEvents
    match command:
        case ReportMismatches():
            event = ReconciliationFailed(
                full=command.full,
                from_log_position=command.from_log_position,
                log_position=command.log_position,
                findings_count=command.findings_count,
                findings=command.findings,
            )
        case RebuildProjections():
            event = ProjectionsRebuilt(
                states=tuple(
                    RebuiltState(kind=ref.kind.value, aggregate_id=ref.id, stream_version=version)
                    for ref, _, version in command.states
                ),
                house=command.house,
                rows_count=command.rows_count,
                note=command.note,
            )
        case RecordAccesses():
            event = AccessesRecorded(accesses=command.accesses)
        case _:
            assert_never(command)
    stream = Ref(Kind.AUDIT, context.derived_id("audit"))
    decision = Decision(uncommitted=[UncommittedEvent(event_id=context.new_event_id(), aggregate=stream, event=event)])
    if isinstance(command, RebuildProjections):
        decision.replaced = command.states
        decision.corrections = {
            (each.account, each.currency): each.expected_minor - each.found_minor for each in command.house
        }
    return decision
