"""Serves metrics and probes over HTTP, for Prometheus and supervisors.

`/metrics` is for Prometheus. `/livez` answers 200 while the event loop turns; on any other answer restart the process.
`/readyz` answers 200 while the process can serve, and otherwise 503 with the reason. The library serves from a thread
of its own; state of the event loop is read on the loop.
"""

import asyncio
import socket
from bisect import bisect_left
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from itertools import accumulate
from threading import Thread
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias
from wsgiref.simple_server import WSGIRequestHandler, make_server

import structlog
from prometheus_client import (
    CollectorRegistry,
    Gauge,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    make_wsgi_app,
)
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from cells import background
from cells.store.unusable import CannotServe
from server.shell.settings.addresses import Address, parse_address

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer
    from wsgiref.types import StartResponse

# If the loop is busier than this, the scrape fails, which an alert can notice.
READ_TIMEOUT_S = 5.0
# Shorter than the shipped probes wait for an answer.
PROBE_TIMEOUT_S = 4.0
CALL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
# As Prometheus names the buckets.
_CALL_ENDS = (*map(str, CALL_SECONDS), "+Inf")

# Of a metric: its one value, or a value for each label or combination of labels.
Values: TypeAlias = "float | Mapping[Any, float]"
# WSGI's: environ and start_response in, the body out.
Application: TypeAlias = "Callable[[dict[str, Any], StartResponse], Iterable[bytes]]"

log = structlog.get_logger()

# The time at which each series was first counted is of no use.
disable_created_metrics()  # type: ignore[no-untyped-call]


class MetricsFailed(CannotServe):
    """The endpoint could not listen; the message names the address and what to do."""


def process_registry() -> CollectorRegistry:
    """A registry that already exports the process's memory, open files and event loop lag."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    registry.register(LoopLag())
    registry.register(BackgroundFailures())
    build = Gauge("cellbook_build", "1, with the version that runs.", ["version"], registry=registry)
    build.labels(version("cellbook")).set(1)
    return registry


class CallMetrics(Collector):
    """Rate, errors and duration of every method that the server has; unknown methods share one name.

    Kept here and not in the library's classes, which take a lock for each of the four numbers of a call.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls: Tally[tuple[str, str]] = Tally()
        self._denied: Tally[tuple[str, str]] = Tally()
        # Method -> calls in each bucket, the last of which has no end; then the seconds of all of them.
        self._seconds: dict[str, list[float]] = defaultdict(lambda: [0.0] * (len(CALL_SECONDS) + 2))
        registry.register(self)

    def observe(self, method: str, code: str, seconds: float) -> None:
        """`method` is one that the server has: unknown names never reach the metrics."""
        self._calls[method, code] += 1
        row = self._seconds[method]
        row[bisect_left(CALL_SECONDS, seconds)] += 1
        row[-1] += seconds

    def denied(self, method: str, reason: str) -> None:
        self._denied[method, reason] += 1

    def collect(self) -> Iterable[Metric]:
        what = "Calls answered, by method and status code."
        yield counter("cellbook_rpc_calls", what, self._calls.copy(), "method", "code")
        what = "From a call's admission to its answer."
        histogram = HistogramMetricFamily("cellbook_rpc_seconds", what, labels=["method"])
        for method, (*buckets, sum_s) in self._seconds.copy().items():
            histogram.add_metric([method], [*zip(_CALL_ENDS, accumulate(buckets), strict=True)], sum_s)
        yield histogram
        what = "Calls denied, by method and reason."
        yield counter("cellbook_denied_calls", what, self._denied.copy(), "method", "reason")


class LoopCollector(Collector):
    """Metrics of state that belongs to the event loop: read there, from whichever thread the scrape comes."""

    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read
        self._loop = asyncio.get_running_loop()

    def collect(self) -> Iterable[Metric]:
        return asyncio.run_coroutine_threadsafe(self._on_loop(), self._loop).result(READ_TIMEOUT_S)

    async def _on_loop(self) -> list[Metric]:
        return list(self._read())


def gauge(name: str, what: str, values: Values, *labels: str) -> Metric:
    """One value, or one for each combination of labels."""
    return _filled(GaugeMetricFamily(name, what, labels=labels), values)


def counter(name: str, what: str, values: Values, *labels: str) -> Metric:
    return _filled(CounterMetricFamily(name, what, labels=labels), values)


def _filled(metric: GaugeMetricFamily | CounterMetricFamily, values: Values) -> Metric:
    for key, value in (values if isinstance(values, Mapping) else {(): values}).items():
        metric.add_metric([key] if isinstance(key, str) else key, value)
    return metric


class LoopLag(Collector):
    """How long the event loop takes to start new work, which delays every call."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def collect(self) -> Iterable[Metric]:
        asked_s = perf_counter()
        reached_s = asyncio.run_coroutine_threadsafe(self._now_s(), self._loop).result(READ_TIMEOUT_S)
        what = "How long the event loop took to start this scrape."
        yield gauge("cellbook_loop_lag_seconds", what, reached_s - asked_s)

    async def _now_s(self) -> float:
        return perf_counter()


class BackgroundFailures(Collector):
    """Unforeseen errors of background tasks."""

    def collect(self) -> Iterable[Metric]:
        what = "Unforeseen exceptions in background tasks, by task; the task continues."
        yield counter("cellbook_background_failures", what, background.failures.copy(), "task")


class MetricsEndpoint:
    """Serves `registry` under /metrics, /livez and /readyz at `listen`, "host:port"; empty: not at all.

    `unready` runs on the event loop and says why the process cannot serve; empty: it can.
    """

    def __init__(
        self, listen: str, registry: CollectorRegistry, *, insecure_listen: bool, unready: Callable[[], str]
    ) -> None:
        self._listen = listen
        self.registry = registry
        self._insecure_listen = insecure_listen
        self._unready = unready
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
        app = _application(make_wsgi_app(self.registry), self._unready)
        try:
            server = make_server(wanted.host, wanted.port, app, _server_class(wanted.host), _SilentHandler)
        except OSError as problem:
            raise MetricsFailed(
                f"metrics: cannot listen on {wanted}: {problem.strerror}: end the process that uses it, or choose "
                "another address"
            ) from None
        thread = Thread(target=server.serve_forever, name="metrics", daemon=True)
        thread.start()
        self._serving = server, thread
        self.address = Address(wanted.host, server.server_port)
        log.info("metrics", address=str(self.address))

    async def stop(self) -> None:
        """Lets a scrape that is under way finish: it reads on our loop."""
        serving, self._serving = self._serving, None
        if serving is not None:
            server, thread = serving
            await asyncio.to_thread(server.shutdown)
            server.server_close()
            await asyncio.to_thread(thread.join)


def _application(metrics: Application, unready: Callable[[], str]) -> Application:
    loop = asyncio.get_running_loop()

    async def nothing() -> str:
        return ""

    async def asked() -> str:
        return unready()

    probes = {"/livez": nothing, "/readyz": asked}

    def application(environ: dict[str, Any], start_response: "StartResponse") -> Iterable[bytes]:
        probe = probes.get(environ["PATH_INFO"])
        if probe is None:
            return metrics(environ, start_response)
        try:
            problem = asyncio.run_coroutine_threadsafe(probe(), loop).result(PROBE_TIMEOUT_S)
        except TimeoutError:
            problem = f"the event loop has not turned for {PROBE_TIMEOUT_S:g} s"
        status = "503 Service Unavailable" if problem else "200 OK"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{problem or 'ok'}\n".encode()]

    return application


def _server_class(host: str) -> type[ThreadingWSGIServer]:
    """A name may resolve to either address family; the first one that the system returns is used."""
    family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    return type("MetricsServer", (ThreadingWSGIServer,), {"address_family": family})


class _SilentHandler(WSGIRequestHandler):
    """Logs no request."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Does nothing."""
