"""Metrics of the comparison of a cell's tables with its log."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from cells.audit.reconcile.findings import Check
from cells.audit.reconcile.service import ReconciliationService
from cells.cell import Cell
from server.shell.metrics import LoopCollector


class AuditMetrics:
    def __init__(self, cell: Cell) -> None:
        self._cell = cell

    def register(self, registry: CollectorRegistry) -> None:
        registry.register(LoopCollector(self.read))

    def read(self) -> Iterable[Metric]:
        reconciliation = self._cell.audit if isinstance(self._cell.audit, ReconciliationService) else None
        found = CounterMetricFamily(
            "cellbook_mismatches", "Rows that passes have found different from the log.", labels=["check"]
        )
        for check in Check:
            found.add_metric([check.value], reconciliation.tally[check] if reconciliation is not None else 0)
        yield found
        last = reconciliation.last if reconciliation is not None else None
        yield GaugeMetricFamily(
            "cellbook_mismatches_now", "Findings of the last pass.", value=last.findings_count if last else 0
        )
        yield GaugeMetricFamily(
            "cellbook_states_held",
            "Aggregates used for no decision, because their rows are known to be wrong.",
            value=len(self._cell.writer.cache.held),
        )
        yield GaugeMetricFamily(
            "cellbook_reconciled_position",
            "The log position up to which tables were compared; 0: not since this process leads.",
            value=last.report.position if last else 0,
        )
        yield GaugeMetricFamily(
            "cellbook_reconciled_age_seconds",
            "The time since the last pass ended, or this process began to lead.",
            value=reconciliation.age_s if reconciliation is not None else 0.0,
        )
