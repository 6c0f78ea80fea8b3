"""The clock of a simulated machine: its monotonic side is the loop's time, its wall side can be set wrong."""

from datetime import UTC, datetime, timedelta

from tests.simulation.loop import VirtualLoop

# New Year 2026: late enough for version 7 UUIDs to look real.
START = datetime(2026, 1, 1, tzinfo=UTC)
START_MS = int(START.timestamp()) * 1_000


class VirtualClock:
    """Implements cells/ports.Clock."""

    def __init__(self, loop: VirtualLoop, *, offset_ms: int = 0) -> None:
        self._loop = loop
        # How far the wall clock is ahead of the world's time.
        self.offset_ms = offset_ms

    def wall_ms(self) -> int:
        return START_MS + int(self._loop.time() * 1_000) + self.offset_ms

    def wall(self) -> datetime:
        return START + timedelta(seconds=self._loop.time(), milliseconds=self.offset_ms)

    def monotonic_s(self) -> float:
        return self._loop.time()
