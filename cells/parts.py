"""The parts of a cell, as its interface needs them."""

from collections.abc import Iterable
from typing import Protocol

from cells.background import note_failure


class Part(Protocol):
    """Works only while this process leads."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...


class AuditPart(Part, Protocol):
    async def prepare(self) -> None:
        """Loads known problems before this process leads, or answers without leading. Raises StoreError."""


async def stop_all(parts: Iterable[Part]) -> None:
    """Stops them one after the other; a part that fails to stop does not keep others running."""
    for part in parts:
        try:
            await part.stop()
        except Exception:  # noqa: BLE001 - the next one is stopped all the same
            note_failure("stop", part=type(part).__name__)
