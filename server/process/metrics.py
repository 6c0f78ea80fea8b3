"""A cell's metrics: of its writer at each commit, and of its state at each scrape.

Labels have few values, known in advance except for cell names: no users, sagas or auctions.
"""

from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from cells.cell import Cell
from cells.domain.sagas.saga import SagaState
from cells.sagas.executions import UNFINISHED
from cells.sagas.steps import Attempt, Steps
from cells.writer.batch import Commit
from server.audit.build import ProofParts
from server.audit.metrics import audit_metrics
from server.mail.metrics import MailMetrics
from server.mail.sender import MailSender
from server.services.audit_parts import AuditParts
from server.shell.observability.metrics import LoopCollector, process_registry

COMMIT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
COMMIT_COMMANDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def cell_registry(
    cell: Cell, steps: Steps, mail_sender: MailSender | None, proofs: ProofParts, audit: AuditParts
) -> CollectorRegistry:
    """All of a cell process's metrics except those of its calls. `mail sender` None: no mail is sent."""
    registry = process_registry()
    CellMetrics(cell, steps).register(registry)
    registry.register(LoopCollector(lambda: audit_metrics(proofs, audit)))
    if mail_sender is not None:
        MailMetrics(mail_sender).register(registry)
    return registry


class WriterMetrics:
    """Follows the commits of this process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = Histogram(
            "cellbook_commit_seconds",
            "The duration of a transaction of the writer.",
            buckets=COMMIT_SECONDS,
            registry=registry,
        )
        self._commands = Histogram(
            "cellbook_commit_commands",
            "The number of commands in a transaction of the writer.",
            buckets=COMMIT_COMMANDS,
            registry=registry,
        )
        self._events = Counter("cellbook_events", "Events that this process has written.", registry=registry)

    def follow(self, commit: Commit) -> None:
        if commit.write_s:
            self._seconds.observe(commit.write_s)
            self._commands.observe(commit.commands)
            self._events.inc(len(commit.events))


class CellMetrics:
    """Metrics of a cell's state, read on its event loop."""

    def __init__(self, cell: Cell, steps: Steps) -> None:
        self._cell = cell
        self._steps = steps

    def register(self, registry: CollectorRegistry) -> None:
        self._cell.writer.followers.append(WriterMetrics(registry).follow)
        registry.register(LoopCollector(self.read))

    def read(self) -> Iterable[Metric]:
        yield from self._writer()
        yield from self._clock()
        yield from self._sagas()
        yield from self._legs()

    def _writer(self) -> Iterable[Metric]:
        writer, time = self._cell.writer, self._cell.time
        yield _gauge("cellbook_leading", "1 if this process leads the cell.", int(self._cell.leading))
        yield _gauge("cellbook_epoch", "The epoch that this process writes under.", writer.epoch)
        yield _gauge("cellbook_position", "The log's last position that is durable.", time.durable_position)
        yield _gauge("cellbook_queue_commands", "Commands that wait to be decided.", len(writer.queue))
        yield _gauge("cellbook_cached_states", "States of aggregates in memory.", len(writer.cache))
        yield _counter("cellbook_cache_lookups", "Lookups of states for decisions.", writer.cache.lookups)
        yield _counter("cellbook_cache_misses", "Lookups for which the state had to be loaded.", writer.cache.misses)
        behind = self._cell.subscriptions.behind
        yield _gauge("cellbook_subscribers", "Streams that follow the log here.", len(behind))
        most = "Events that the slowest of them has not received yet."
        yield _gauge("cellbook_subscriber_lag_events", most, max(behind, default=0))

    def _clock(self) -> Iterable[Metric]:
        time = self._cell.time
        ahead_s = (time.hlc.last.physical_ms - time.clock.wall_ms()) / 1_000
        yield _gauge(
            "cellbook_hlc_ahead_seconds",
            "How far the hybrid clock is ahead of this machine's clock.",
            max(ahead_s, 0.0),
        )
        offsets = GaugeMetricFamily(
            "cellbook_hlc_offset_seconds",
            "How far each peer's last stamp is ahead of this machine's clock; negative: behind.",
            labels=["peer"],
        )
        for peer, offset_ms in time.offsets_ms.items():
            offsets.add_metric([peer], offset_ms / 1_000)
        yield offsets
        refused = CounterMetricFamily(
            "cellbook_clock_refused",
            "Messages whose stamp was too far ahead, by the peer that sent them.",
            labels=["peer"],
        )
        for peer, count in time.refused.items():
            refused.add_metric([peer], count)
        yield refused
        disputed = GaugeMetricFamily(
            "cellbook_disputed_positions",
            "Positions of this log beyond its head that a peer claims, by peer; none: no claims.",
            labels=["peer"],
        )
        for peer, claimed in time.disputed.items():
            disputed.add_metric([peer], claimed - time.durable_position)
        yield disputed

    def _sagas(self) -> Iterable[Metric]:
        executions, clock = self._steps.executions, self._cell.time.clock
        runs = list(executions.all.values())
        states = Tally(run.saga.state.value for run in runs)
        by_state = GaugeMetricFamily("cellbook_sagas_in_flight", "Sagas that have not ended.", labels=["state"])
        for state in UNFINISHED:
            by_state.add_metric([state], states[state])
        yield by_state
        oldest_ms = min((run.saga.started_ms for run in runs), default=clock.wall_ms())
        age_s = max(clock.wall_ms() - oldest_ms, 0) / 1_000
        yield _gauge("cellbook_saga_oldest_seconds", "Age of the oldest saga in flight; 0 if there is none.", age_s)
        now_s = clock.monotonic_s()
        stuck = Tally(run.saga.state is SagaState.COMPENSATING for run in runs if run.is_stuck(now_s))
        yield _gauge(
            "cellbook_sagas_stuck", "Sagas that can neither proceed nor compensate.", stuck[True] + stuck[False]
        )
        yield _gauge("cellbook_compensations_stuck", "Those of them that are compensating.", stuck[True])
        yield _gauge("cellbook_sagas_paused", "Sagas that an operator has paused.", sum(r.saga.paused for r in runs))
        ended = CounterMetricFamily(
            "cellbook_sagas_ended", "Sagas that have ended here, by kind and last state.", labels=["kind", "state"]
        )
        for (kind, state), count in executions.ended.items():
            ended.add_metric([kind, state], count)
        yield ended

    def _legs(self) -> Iterable[Metric]:
        attempts = CounterMetricFamily("cellbook_saga_attempts", "Attempts of legs, by result.", labels=["end"])
        for end in Attempt:
            attempts.add_metric([end.value], self._steps.tally[end])
        yield attempts
        silent = GaugeMetricFamily("cellbook_peer_silent", "1 if a peer does not answer legs.", labels=["peer"])
        for peer, gate in self._steps.breakers.items():
            silent.add_metric([peer], int(gate.silent))
        yield silent


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(name, what, value=value)


def _counter(name: str, what: str, value: float) -> Metric:
    return CounterMetricFamily(name, what, value=value)
