"""Metrics of a cell's audit: whether its log is signed, witnessed and unchanged, and its tables are as the log says."""

from collections.abc import Iterable

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from cells.audit.reconcile.findings import Check
from cells.audit.reconcile.service import ReconciliationService
from cells.cell import Cell
from cells.time.celltime import CellTime
from server.audit.build import ProofParts
from server.services.audit_parts import AuditParts


def audit_metrics(proofs: ProofParts, audit: AuditParts) -> Iterable[Metric]:
    """Read on the cell's event loop."""
    signer = proofs.checkpoint_signer
    broken, changed = bool(signer.broken), proofs.log_watch.problems
    yield _gauge("cellbook_log_broken", "1 if the stored log differs from what was signed.", broken)
    yield _gauge("cellbook_log_changed", "Rows of the log that differ from what was written.", changed)
    yield _gauge("cellbook_data_lost", "1 if the log is shorter than others have seen it.", audit.cell.time.lost)
    yield _gauge(
        "cellbook_unsigned_seconds", "Age of the oldest event that no checkpoint covers; 0: none.", signer.unsigned_s
    )
    silent = GaugeMetricFamily(
        "cellbook_witness_silent", "1 if a witness has not signed the last checkpoint.", labels=["peer"]
    )
    for peer, problem in proofs.cosigning.problems.items():
        silent.add_metric([peer], int(bool(problem)))
    yield silent
    refused = CounterMetricFamily(
        "cellbook_witness_refused", "Checkpoints of a peer whose log differs from before.", labels=["peer"]
    )
    for peer, count in proofs.facade.witness.refused.items():
        refused.add_metric([peer], count)
    yield refused
    damage = CounterMetricFamily(
        "cellbook_damage_found", "Answers refused because of changed or missing rows.", labels=["reason"]
    )
    for reason, count in audit.history.damage.items():
        damage.add_metric([reason], count)
    yield damage
    yield from _reconciliation(audit.books.reconciliation, audit.cell)


def _reconciliation(reconciliation: ReconciliationService, cell: Cell) -> Iterable[Metric]:
    found = CounterMetricFamily(
        "cellbook_mismatches", "Rows that passes have found different from the log.", labels=["check"]
    )
    for check in Check:
        found.add_metric([check.value], reconciliation.tally[check])
    yield found
    last = reconciliation.last
    count, held = last.findings_count if last else 0, len(cell.writer.cache.held)
    yield _gauge("cellbook_mismatches_now", "Findings of the last pass.", count)
    what = "Aggregates used for no decision, because their rows are known to be wrong."
    yield _gauge("cellbook_states_held", what, held)
    what = "The log position up to which tables were compared; 0: not since this process leads."
    yield _gauge("cellbook_reconciled_position", what, last.report.position if last else 0)
    what = "The time since the last pass ended, or this process began to lead."
    yield _gauge("cellbook_reconciled_age_seconds", what, reconciliation.age_s)


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(name, what, value=value)


def trouble(time: CellTime, proofs: ProofParts) -> str:
    """Problems of the log that this process knows, in ASCII; empty: none."""
    found = []
    if time.lost:
        found.append("it is shorter than others have seen it, and the cell accepts no commands (DATA_LOST)")
    if proofs.checkpoint_signer.broken:
        found.append(f"it is not what was signed: {proofs.checkpoint_signer.broken}")
    if proofs.log_watch.problems:
        found.append(f"{proofs.log_watch.problems} rows are not what was written")
    for peer, position in time.disputed.items():
        found.append(f"{peer} has seen position {position} of it, which it does not have")
    return "; ".join(found).encode("ascii", "replace").decode()
