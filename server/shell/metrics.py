"""What a process tells Prometheus: calls by method and code, and whatever else is registered, over HTTP.

The library serves from a thread of its own; what lives on the event loop is read there (`LoopCollector`).
"""

import asyncio
from collections.abc import Callable, Iterable
from importlib.metadata import version
from time import perf_counter
from typing import TYPE_CHECKING

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cells import background
from server.shell.addresses import Address, parse_address

if TYPE_CHECKING:
    from threading import Thread
    from wsgiref.simple_server import WSGIServer

# A loop that does not get to it in this time has other worries; the scrape fails, which an alert can notice.
READ_TIMEOUT_S = 5.0
CALL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

log = structlog.get_logger()

# When each series was first counted is of no use to anybody.
disable_created_metrics()  # type: ignore[no-untyped-call]


class MetricsFailed(Exception):
    """The endpoint could not listen; the message names the address and what to do."""


def process_registry() -> CollectorRegistry:
    """A registry that tells of the process itself already: its memory, its files, how far its event loop is behind."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    registry.register(LoopLag())
    registry.register(BackgroundFailures())
    build = Gauge("cellbook_build", "1, with the version that runs.", ["version"], registry=registry)
    build.labels(version("cellbook")).set(1)
    return registry


class CallMetrics:
    """Rate, errors and duration of every method that the server has; others share one name."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Counter(
            "cellbook_rpc_calls", "Calls answered, by method and status code.", ["method", "code"], registry=registry
        )
        self._seconds = Histogram(
            "cellbook_rpc_seconds",
            "From a call's admission to its answer.",
            ["method"],
            buckets=CALL_SECONDS,
            registry=registry,
        )
        self._denied = Counter(
            "cellbook_denied_calls", "Calls denied, by method and reason.", ["method", "reason"], registry=registry
        )
        # Looking a child up by its labels takes longer than counting.
        self._counted: dict[tuple[str, str], Counter] = {}
        self._timed: dict[str, Histogram] = {}

    def observe(self, method: str, code: str, seconds: float) -> None:
        """`method` is one that the server has: there are no others' names in the metrics."""
        counter = self._counted.get((method, code))
        if counter is None:
            counter = self._counted[method, code] = self._calls.labels(method, code)
        counter.inc()
        histogram = self._timed.get(method)
        if histogram is None:
            histogram = self._timed[method] = self._seconds.labels(method)
        histogram.observe(seconds)

    def denied(self, method: str, reason: str) -> None:
        self._denied.labels(method, reason).inc()


class LoopCollector(Collector):
    """Metrics of state that belongs to the event loop: read there, whichever thread asks."""

    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read
        self._loop = asyncio.get_running_loop()

    def collect(self) -> Iterable[Metric]:
        return asyncio.run_coroutine_threadsafe(self._on_loop(), self._loop).result(READ_TIMEOUT_S)

    async def _on_loop(self) -> list[Metric]:
        return list(self._read())


class LoopLag(Collector):
    """How long the event loop takes to get to something new: what every call waits for, too."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def collect(self) -> Iterable[Metric]:
        asked_s = perf_counter()
        reached_s = asyncio.run_coroutine_threadsafe(self._now_s(), self._loop).result(READ_TIMEOUT_S)
        what = "How long the event loop took to get to this scrape."
        yield GaugeMetricFamily("cellbook_loop_lag_seconds", what, value=reached_s - asked_s)

    async def _now_s(self) -> float:
        return perf_counter()


class BackgroundFailures(Collector):
    """Errors of background tasks that nobody foresaw."""

    def collect(self) -> Iterable[Metric]:
        what = "Exceptions in background tasks that nobody foresaw, by task; the task goes on."
        failed = CounterMetricFamily("cellbook_background_failures", what, labels=["task"])
        for name, count in list(background.failures.items()):
            failed.add_metric([name], count)
        yield failed


class MetricsEndpoint:
    """Serves `registry` under /metrics at `listen`, "host:port"; empty: nowhere."""

    def __init__(self, listen: str, registry: CollectorRegistry, *, insecure_listen: bool) -> None:
        self._listen = listen
        self.registry = registry
        self._insecure_listen = insecure_listen
        self._serving: tuple[WSGIServer, Thread] | None = None
        self.address: Address | None = None

    def start(self) -> None:
        """Raises MetricsFailed."""
        if not self._listen:
            return
        wanted = parse_address(self._listen)
        if not wanted.is_loopback and not self._insecure_listen:
            raise MetricsFailed(
                f"metrics: {wanted} can be reached from elsewhere and metrics travel in plain text: "
                "listen on 127.0.0.1, or set insecure_listen=true where the network is trusted"
            )
        try:
            self._serving = start_http_server(wanted.port, addr=wanted.host, registry=self.registry)
        except OSError as problem:
            message = f"metrics: cannot listen on {wanted} ({problem}): is another process using it?"
            raise MetricsFailed(message) from None
        self.address = Address(wanted.host, self._serving[0].server_port)
        log.info("metrics", address=str(self.address))

    async def stop(self) -> None:
        """A scrape that is under way reads on our loop, and is let end."""
        serving, self._serving = self._serving, None
        if serving is not None:
            server, thread = serving
            await asyncio.to_thread(server.shutdown)
            server.server_close()
            await asyncio.to_thread(thread.join)
