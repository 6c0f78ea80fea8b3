"""Traces of calls and of sagas, where a collector is named; where none is, nothing is done for them.

A saga outlives every call: its trace has the saga's own id, in every cell and after every restart. Calls that begin or
advance one link to it.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol
from uuid import UUID

from google.protobuf.message import Message

from server.shell.config import HostSettings, SettingsInvalid

Metadata = Sequence[tuple[str, str | bytes]]
# The sagas that a request of a principal begins or advances.
SagasOf = Callable[[Message, str], Iterable[UUID]]


class CallSpan(Protocol):
    def link(self, sagas: Iterable[UUID]) -> None:
        """To those that the call begins or advances."""

    def ended(self, code: str) -> None:
        """With the name of its status."""


class Tracing(Protocol):
    def call(self, method: str, metadata: Metadata) -> AbstractContextManager[CallSpan]:
        """A call that is handled here; its caller's trace is taken up from `metadata`."""

    def leg(self, saga_id: UUID, leg: str, direction: str) -> AbstractContextManager[object]:
        """One attempt of a leg, in the trace of its saga."""

    def outgoing(self) -> Sequence[tuple[str, str]]:
        """The metadata that carries the trace of now to another process."""

    def close(self) -> None:
        """Hands on what is still here; takes seconds at most, and waits."""


def no_sagas(_request: Message, _principal: str) -> Iterable[UUID]:
    return ()


def nothing_outgoing() -> Sequence[tuple[str, str]]:
    return ()


def build_tracing(settings: HostSettings, *, name: str) -> Tracing | None:
    """None: traces are off. Raises SettingsInvalid where the package is not installed."""
    if not settings.otlp:
        return None
    try:
        from server.shell.otel import OtelTracing  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise SettingsInvalid(f"otlp: traces need an extra, pip install 'cellbook[otel]' ({error})") from None
    return OtelTracing.to_collector(settings.otlp, tls=settings.otlp_tls, name=name, ratio=settings.otlp_ratio)
