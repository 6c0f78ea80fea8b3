"""What a cell is put together of, as far as its face knows it."""

from typing import Protocol


class Part(Protocol):
    """What works only while this process leads."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...


class AuditPart(Part, Protocol):
    async def prepare(self) -> None:
        """Takes up what is known to be wrong: before this process leads, or answers without it. Raises StoreError."""
