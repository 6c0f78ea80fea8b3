"""Metrics of a cell's audit: whether its log is signed, witnessed and unchanged, and its tables are as the log says."""

from collections.abc import Iterable

from prometheus_client.metrics_core import Metric

from cells.audit.reconcile.findings import Check
from cells.audit.reconcile.service import ReconciliationService
from cells.cell import Cell
from server.services.audit_parts import AuditParts
from server.shell.observability.metrics import counter, gauge


def audit_metrics(audit: AuditParts) -> Iterable[Metric]:
    """Read on the cell's event loop."""
    proofs, signer = audit.proofs, audit.proofs.checkpoint_signer
    broken, changed = int(bool(signer.broken)), proofs.log_watch.problems
    yield gauge("cellbook_log_broken", "1 if the stored log differs from what was signed.", broken)
    yield gauge("cellbook_log_changed", "Rows of the log that differ from what was written.", changed)
    yield gauge("cellbook_data_lost", "1 if the log is shorter than others have seen it.", int(audit.cell.time.lost))
    what = "Age of the oldest event that no checkpoint covers; 0: none."
    yield gauge("cellbook_unsigned_seconds", what, signer.unsigned_s)
    silent = {peer: int(bool(problem)) for peer, problem in proofs.cosigning.problems.items()}
    yield gauge("cellbook_witness_silent", "1 if a witness has not signed the last checkpoint.", silent, "peer")
    what = "Checkpoints of a peer whose log differs from before."
    yield counter("cellbook_witness_refused", what, proofs.witness.refused, "peer")
    what = "Answers refused because of changed or missing rows."
    yield counter("cellbook_damage_found", what, audit.history.damage, "reason")
    yield from _reconciliation(audit.reconciliation, audit.cell)


def _reconciliation(reconciliation: ReconciliationService, cell: Cell) -> Iterable[Metric]:
    found = {check.value: reconciliation.tally[check] for check in Check}
    yield counter("cellbook_mismatches", "Rows that passes have found different from the log.", found, "check")
    last = reconciliation.last
    yield gauge("cellbook_mismatches_now", "Findings of the last pass.", last.findings_count if last else 0)
    what = "Aggregates used for no decision, because their rows are known to be wrong."
    yield gauge("cellbook_states_held", what, len(cell.writer.cache.held))
    what = "The log position up to which tables were compared; 0: not since this process leads."
    yield gauge("cellbook_reconciled_position", what, last.report.position if last else 0)
    what = "The time since the last pass ended, or this process began to lead."
    yield gauge("cellbook_reconciled_age_seconds", what, reconciliation.age_s)


def trouble(audit: AuditParts) -> str:
    """Problems of the log that this process knows, in ASCII; empty: none."""
    time, proofs, found = audit.cell.time, audit.proofs, []
    if time.lost:
        found.append("it is shorter than others have seen it, and the cell accepts no commands (DATA_LOST)")
    if proofs.checkpoint_signer.broken:
        found.append(f"it is not what was signed: {proofs.checkpoint_signer.broken}")
    if proofs.log_watch.problems:
        found.append(f"{proofs.log_watch.problems} rows are not what was written")
    for peer, position in time.disputed.items():
        found.append(f"{peer} has seen position {position} of it, which it does not have")
    return "; ".join(found).encode("ascii", "replace").decode()
