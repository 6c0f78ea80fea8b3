"""A cell's mail, as Prometheus reads it."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from server.mail.outbox import End
from server.mail.sender import PUT_OFF, MailSender
from server.shell.observability.metrics import LoopCollector


class MailMetrics:
    """Metrics of the process that leads, as of the mail sender's last check, at most seconds ago."""

    def __init__(self, mail_sender: MailSender) -> None:
        self._mail_sender = mail_sender

    def register(self, registry: CollectorRegistry) -> None:
        registry.register(LoopCollector(self.read))

    def read(self) -> Iterable[Metric]:
        waiting = self._mail_sender.waiting
        yield GaugeMetricFamily("cellbook_notices_waiting", "Notices that wait to be mailed.", value=waiting.notices)
        oldest = "Age of the oldest notice that waits to be mailed; 0 if there is none."
        yield GaugeMetricFamily("cellbook_notice_oldest_seconds", oldest, value=waiting.oldest_s)
        ends = CounterMetricFamily("cellbook_notices", "Notices, by result.", labels=["end"])
        for end in (*(each.value for each in End), PUT_OFF):
            ends.add_metric([end.lower()], self._mail_sender.tally[end])
        yield ends
