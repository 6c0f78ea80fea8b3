"""A cell's metrics: of its writer at each commit, and of its state at each scrape.

Labels have few values, known in advance except for cell names: no users, sagas or auctions.
"""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.metrics_core import Metric

from cells.cell import Cell
from cells.domain.sagas.saga import SagaState
from cells.sagas.executions import UNFINISHED, SagaExecutions
from cells.sagas.steps import Attempt, Steps
from cells.store.ports import Clock
from cells.time.celltime import CellTime
from cells.writer.batch import Commit
from server.audit.metrics import audit_metrics
from server.mail.sender import MailSender, mail_metrics
from server.services.audit_parts import AuditParts
from server.shell.calls.guard import CallGuard
from server.shell.observability.metrics import LoopCollector, counter, gauge, process_registry

COMMIT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
COMMIT_COMMANDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def cell_registry(cell: Cell, steps: Steps, mail_sender: MailSender | None, audit: AuditParts) -> CollectorRegistry:
    """All of a cell process's metrics except those of its calls. `mail sender` None: no mail is sent."""
    registry = process_registry()
    register_cell(registry, cell, steps)
    registry.register(LoopCollector(lambda: audit_metrics(audit)))
    if mail_sender is not None:
        registry.register(LoopCollector(lambda: mail_metrics(mail_sender)))
    return registry


def register_cell(registry: CollectorRegistry, cell: Cell, steps: Steps) -> None:
    what = "The duration of a transaction of the writer."
    seconds = Histogram("cellbook_commit_seconds", what, buckets=COMMIT_SECONDS, registry=registry)
    what = "The number of commands in a transaction of the writer."
    commands = Histogram("cellbook_commit_commands", what, buckets=COMMIT_COMMANDS, registry=registry)

    def follow(commit: Commit) -> None:
        if commit.write_s:
            seconds.observe(commit.write_s)
            commands.observe(commit.commands)

    cell.writer.followers.append(follow)
    registry.register(LoopCollector(lambda: cell_metrics(cell, steps)))


def watch_metrics(guard: CallGuard) -> Iterable[Metric]:
    yield gauge("cellbook_watchers", "Watches of auctions that are open here.", guard.watchers_budget.taken)


def cell_metrics(cell: Cell, steps: Steps) -> Iterable[Metric]:
    """Metrics of a cell's state; to be read on its event loop."""
    writer, time, behind = cell.writer, cell.time, cell.subscriptions.behind
    yield gauge("cellbook_leading", "1 if this process leads the cell.", int(cell.leading))
    yield gauge("cellbook_epoch", "The epoch that this process writes under.", writer.epoch)
    yield gauge("cellbook_position", "The log's last position that is durable.", time.durable_position)
    yield counter("cellbook_events", "Events that this process has written.", cell.tally.events)
    yield gauge("cellbook_queue_commands", "Commands that wait to be decided.", len(writer.queue))
    yield gauge("cellbook_cached_states", "States of aggregates in memory.", len(writer.cache))
    yield counter("cellbook_cache_lookups", "Lookups of states for decisions.", writer.cache.lookups)
    yield counter("cellbook_cache_misses", "Lookups for which the state had to be loaded.", writer.cache.misses)
    yield gauge("cellbook_subscribers", "Streams that follow the log here.", len(behind))
    what = "Events that the slowest of them has not received yet."
    yield gauge("cellbook_subscriber_lag_events", what, max(behind, default=0))
    yield from _clock_metrics(time)
    yield from _saga_metrics(steps.executions, time.clock)
    what = "Attempts of legs, by result."
    yield counter("cellbook_saga_attempts", what, {end.value: steps.tally[end] for end in Attempt}, "end")
    silent = {peer: int(breaker.silent) for peer, breaker in steps.breakers.items()}
    yield gauge("cellbook_peer_silent", "1 if a peer does not answer legs.", silent, "peer")


def _clock_metrics(time: CellTime) -> Iterable[Metric]:
    what = "How far the hybrid clock is ahead of this machine's clock."
    yield gauge("cellbook_hlc_ahead_seconds", what, time.ahead_ms / 1_000)
    what = "How far each peer's last stamp is ahead of this machine's clock; negative: behind."
    offsets = {peer: offset_ms / 1_000 for peer, offset_ms in time.offsets_ms.items()}
    yield gauge("cellbook_hlc_offset_seconds", what, offsets, "peer")
    what = "Messages whose stamp was too far ahead, by the peer that sent them."
    yield counter("cellbook_clock_refused", what, time.refused, "peer")
    what = "Positions of this log beyond its head that a peer claims, by peer; none: no claims."
    disputed = {peer: claimed - time.durable_position for peer, claimed in time.disputed.items()}
    yield gauge("cellbook_disputed_positions", what, disputed, "peer")


def _saga_metrics(executions: SagaExecutions, clock: Clock) -> Iterable[Metric]:
    counts = executions.counts(clock)
    by_state = {state.value: counts.by_state[state] for state in map(SagaState, UNFINISHED)}
    yield gauge("cellbook_sagas_in_flight", "Sagas that have not ended.", by_state, "state")
    what = "Age of the oldest saga in flight; 0 if there is none."
    yield gauge("cellbook_saga_oldest_seconds", what, counts.oldest_age_ms / 1_000)
    yield gauge("cellbook_sagas_stuck", "Sagas that can neither proceed nor compensate.", counts.stuck)
    yield gauge("cellbook_compensations_stuck", "Those of them that are compensating.", counts.stuck_compensating)
    yield gauge("cellbook_sagas_paused", "Sagas that an operator has paused.", counts.paused)
    what = "Sagas that have ended here, by kind and last state."
    yield counter("cellbook_sagas_ended", what, executions.ended, "kind", "state")
