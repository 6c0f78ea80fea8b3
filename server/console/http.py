"""HTTP for visitors: a connection that asks for nothing is closed."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class ImpatientProtocol(H11Protocol):
    """Waits REQUEST_S for a whole request line with its headers; uvicorn alone would wait without end.

    Otherwise strangers who send nothing could keep all connections.
    """

    REQUEST_S = 10.0

    def __init__(self, *args: Any, **how: Any) -> None:  # noqa: ANN401 - uvicorn's
        super().__init__(*args, **how)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._wait()

    def _wait(self) -> None:
        """For the next request, unless one is being answered. Further parts of it do not prolong the wait."""
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if is_answering or self.transport.is_closing():
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.REQUEST_S, self.transport.close)
