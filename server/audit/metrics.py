"""Metrics of a cell's audit: whether its log is signed, witnessed and unchanged, and its tables are as the log says."""

from collections.abc import Iterable

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from cells.audit.reconcile.findings import Check
from cells.audit.reconcile.service import ReconciliationService
from cells.cell import Cell


def audit_metrics(cell: Cell) -> Iterable[Metric]:
    """Read on the cell's event loop."""
    signer, cosigning, witness, watch = cell.checkpoint_signer, cell.cosigning, cell.witness, cell.log_watch
    broken, changed = bool(signer and signer.broken), watch.problems if watch is not None else 0
    yield _gauge("cellbook_log_broken", "1 if the stored log differs from what was signed.", broken)
    yield _gauge("cellbook_log_changed", "Rows of the log that differ from what was written.", changed)
    yield _gauge("cellbook_data_lost", "1 if the log is shorter than others have seen it.", cell.time.lost)
    unsigned_s = signer.unsigned_s if signer is not None else 0.0
    yield _gauge("cellbook_unsigned_seconds", "Age of the oldest event that no checkpoint covers; 0: none.", unsigned_s)
    silent = GaugeMetricFamily(
        "cellbook_witness_silent", "1 if a witness has not signed the last checkpoint.", labels=["peer"]
    )
    for peer, problem in (cosigning.problems if cosigning is not None else {}).items():
        silent.add_metric([peer], int(bool(problem)))
    yield silent
    refused = CounterMetricFamily(
        "cellbook_witness_refused", "Checkpoints of a peer whose log differs from before.", labels=["peer"]
    )
    for peer, count in (witness.refused if witness is not None else {}).items():
        refused.add_metric([peer], count)
    yield refused
    yield from _reconciliation(cell)


def _reconciliation(cell: Cell) -> Iterable[Metric]:
    reconciliation = cell.audit if isinstance(cell.audit, ReconciliationService) else None
    found = CounterMetricFamily(
        "cellbook_mismatches", "Rows that passes have found different from the log.", labels=["check"]
    )
    for check in Check:
        found.add_metric([check.value], reconciliation.tally[check] if reconciliation is not None else 0)
    yield found
    last = reconciliation.last if reconciliation is not None else None
    count, held = last.findings_count if last else 0, len(cell.writer.cache.held)
    yield _gauge("cellbook_mismatches_now", "Findings of the last pass.", count)
    what = "Aggregates used for no decision, because their rows are known to be wrong."
    yield _gauge("cellbook_states_held", what, held)
    what = "The log position up to which tables were compared; 0: not since this process leads."
    yield _gauge("cellbook_reconciled_position", what, last.report.position if last else 0)
    what = "The time since the last pass ended, or this process began to lead."
    yield _gauge("cellbook_reconciled_age_seconds", what, reconciliation.age_s if reconciliation is not None else 0.0)


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(name, what, value=value)


def trouble(cell: Cell) -> str:
    """Problems of the log that this process knows, in ASCII; empty: none."""
    found = []
    if cell.time.lost:
        found.append("it is shorter than others have seen it, and the cell accepts no commands (DATA_LOST)")
    if cell.checkpoint_signer is not None and cell.checkpoint_signer.broken:
        found.append(f"it is not what was signed: {cell.checkpoint_signer.broken}")
    if cell.log_watch is not None and cell.log_watch.problems:
        found.append(f"{cell.log_watch.problems} rows are not what was written")
    for peer, position in cell.time.disputed.items():
        found.append(f"{peer} has seen position {position} of it, which it does not have")
    return "; ".join(found).encode("ascii", "replace").decode()
