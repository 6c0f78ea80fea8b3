"""Traces of calls and sagas, if a collector is configured; otherwise tracing costs nothing.

A saga outlives every call: its trace has the saga's own id, in every cell and after every restart. Calls that begin or
advance it link to it.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol
from uuid import UUID

from google.protobuf.message import Message

from server.shell.rpc import Metadata
from server.shell.settings.host import HostSettings, SettingsInvalid

# The sagas that a principal's request begins or advances.
SagasOf = Callable[[Message, str], Iterable[UUID]]


class CallSpan(Protocol):
    def link(self, sagas: Iterable[UUID]) -> None:
        """Links to the sagas that the call begins or advances."""

    def ended(self, code: str) -> None:
        """Ends the span with the name of the call's status."""


class Tracing(Protocol):
    def call(self, method: str, metadata: Metadata) -> AbstractContextManager[CallSpan]:
        """A call handled here; continues its caller's trace from `metadata`."""

    def leg(self, saga_id: UUID, leg: str, direction: str) -> AbstractContextManager[object]:
        """One attempt of a leg, in the trace of its saga."""

    def outgoing(self) -> Sequence[tuple[str, str]]:
        """The metadata that carry the current trace to another process."""

    def close(self) -> None:
        """Exports what is left; blocks for a few seconds at most."""


def no_sagas(_request: Message, _principal: str) -> Iterable[UUID]:
    return ()


def nothing_outgoing() -> Sequence[tuple[str, str]]:
    return ()


def build_tracing(settings: HostSettings, *, name: str) -> Tracing | None:
    """None: traces are off. Raises SettingsInvalid if the package is not installed."""
    if not settings.otlp:
        return None
    try:
        from server.shell.observability.otel import OtelTracing  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise SettingsInvalid(f"otlp: traces need an extra, pip install 'cellbook[otel]' ({error})") from None
    return OtelTracing.to_collector(settings.otlp, tls=settings.otlp_tls, name=name, ratio=settings.otlp_ratio)
