"""The port for traces of calls and sagas; without a collector tracing costs nothing.

A saga outlives every call: its trace has the saga's own id, in every cell and after every restart. Calls that begin or
advance it link to it.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol
from uuid import UUID

from google.protobuf.message import Message

from server.shell.rpc import Metadata

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
