"""A cell's mail, as Prometheus reads it."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from server.mail.courier import PUT_OFF, Courier
from server.mail.outbox import End
from server.shell.metrics import LoopCollector


class MailMetrics:
    """Metrics of the process that leads, as of the courier's last check, at most seconds ago."""

    def __init__(self, courier: Courier) -> None:
        self._courier = courier

    def register(self, registry: CollectorRegistry) -> None:
        registry.register(LoopCollector(self.read))

    def read(self) -> Iterable[Metric]:
        waiting = self._courier.waiting
        yield GaugeMetricFamily("cellbook_notices_waiting", "Notices that wait to be mailed.", value=waiting.notices)
        oldest = "Age of the oldest notice that waits to be mailed; 0 if there is none."
        yield GaugeMetricFamily("cellbook_notice_oldest_seconds", oldest, value=waiting.oldest_s)
        ends = CounterMetricFamily("cellbook_notices", "Notices, by result.", labels=["end"])
        for end in (*(each.value for each in End), PUT_OFF):
            ends.add_metric([end.lower()], self._courier.tally[end])
        yield ends
