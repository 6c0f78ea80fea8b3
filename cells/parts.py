"""What a cell is put together of, as far as its face knows it."""

from collections.abc import Iterable
from typing import Protocol

from cells.background import note_failure


class Part(Protocol):
    """What works only while this process leads."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...


class AuditPart(Part, Protocol):
    async def prepare(self) -> None:
        """Takes up what is known to be wrong: before this process leads, or answers without it. Raises StoreError."""


async def stop_all(parts: Iterable[Part]) -> None:
    """One after the other; a part that fails to stop keeps no other running."""
    for part in parts:
        try:
            await part.stop()
        except Exception:  # noqa: BLE001 - the next one is stopped all the same
            note_failure("stop", part=type(part).__name__)
