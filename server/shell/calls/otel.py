"""Traces of calls and sagas by OpenTelemetry; without a collector nothing imports this, and tracing costs nothing.

A saga outlives every call: its trace has the saga's own id, in every cell and after every restart. Calls that begin or
advance it link to it. Spans hold names and saga ids; no persons, no amounts.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from server.shell.rpc import Metadata

_PROPAGATED = ("traceparent", "tracestate")
_CARRIER = TraceContextTextMapPropagator()
# The bits of a saga's id that are random in every version of a UUID.
_RANDOM_BITS = 48
# Statuses that indicate a fault here; all others are between the caller and the rules.
_ERRORS = frozenset({"INTERNAL", "UNKNOWN", "DATA_LOSS"})


@dataclass(frozen=True, slots=True)
class CallSpan:
    span: Span
    root_of: Callable[[UUID], SpanContext]

    def link(self, sagas: Iterable[UUID]) -> None:
        """Links to the sagas that the call begins or advances."""
        for saga_id in sagas:
            self.span.add_link(self.root_of(saga_id))

    def ended(self, code: str) -> None:
        """Sets the name of the call's status."""
        self.span.set_attribute("rpc.grpc.status", code)
        if code in _ERRORS:
            self.span.set_status(Status(StatusCode.ERROR))


@dataclass(frozen=True, slots=True, kw_only=True)
class OtelTracing:
    provider: TracerProvider
    # The share of traces that is kept; all processes make the same choice for a saga.
    ratio: float

    @classmethod
    def to_collector(cls, endpoint: str, *, tls: bool, name: str, ratio: float) -> "OtelTracing":
        """`endpoint`: "host:port" of a collector that takes OTLP over gRPC."""
        resource = Resource.create({"service.name": "cellbook", "service.instance.id": name})
        provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(ratio)), resource=resource)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, insecure=not tls)))
        return cls(provider=provider, ratio=ratio)

    @contextmanager
    def call(self, method: str, metadata: Metadata) -> Iterator[CallSpan]:
        """A call handled here; continues its caller's trace from `metadata`."""
        carried = {key: value for key, value in metadata if key in _PROPAGATED and isinstance(value, str)}
        service, _, rpc = method.lstrip("/").partition("/")
        with self._tracer.start_as_current_span(
            method.lstrip("/"),
            context=_CARRIER.extract(carried),
            kind=SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": rpc},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            yield CallSpan(span, self._root_of)

    @contextmanager
    def leg(self, saga_id: UUID, leg: str, direction: str) -> Iterator[None]:
        """One attempt of a leg, in the trace of its saga."""
        root = trace.set_span_in_context(NonRecordingSpan(self._root_of(saga_id)), contexts.Context())
        with self._tracer.start_as_current_span(
            f"{leg} {direction.lower()}",
            context=root,
            kind=SpanKind.CLIENT,
            attributes={"cellbook.saga_id": str(saga_id), "cellbook.leg": leg, "cellbook.direction": direction},
            record_exception=False,
        ):
            yield

    def outgoing(self) -> Sequence[tuple[str, str]]:
        """The metadata that carry the current trace to another process."""
        carried: dict[str, str] = {}
        _CARRIER.inject(carried)
        return tuple(carried.items())

    def close(self) -> None:
        """Exports what is left; blocks for a few seconds at most."""
        self.provider.shutdown()

    @property
    def _tracer(self) -> trace.Tracer:
        return self.provider.get_tracer("cellbook")

    def _root_of(self, saga_id: UUID) -> SpanContext:
        """The root of the saga's trace, derived from its id alone, so every process computes the same."""
        kept = (saga_id.int >> 128 - _RANDOM_BITS) < self.ratio * (1 << _RANDOM_BITS)
        flags = TraceFlags(TraceFlags.SAMPLED if kept else TraceFlags.DEFAULT)
        return SpanContext(saga_id.int, saga_id.int & (1 << 64) - 1, is_remote=True, trace_flags=flags)
