"""A clock and ids that repeat themselves."""

import random
from datetime import UTC, datetime, timedelta

from cells.store.ports import Clock
from cells.time.clocks import UuidV7Ids

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ManualClock:
    """Stands still until it is advanced."""

    def __init__(self, wall_ms: int = 1_767_225_600_000) -> None:
        self._wall_us = wall_ms * 1_000
        self._monotonic_us = 0

    def advance(self, *, ms: int) -> None:
        """Time passes."""
        self._wall_us += ms * 1_000
        self._monotonic_us += ms * 1_000

    def jump(self, *, ms: int) -> None:
        """The wall clock is set ahead or back."""
        self._wall_us += ms * 1_000

    def wall_ms(self) -> int:
        return self._wall_us // 1_000

    def wall(self) -> datetime:
        return _EPOCH + timedelta(microseconds=self._wall_us)

    def monotonic_s(self) -> float:
        return self._monotonic_us / 1_000_000


class SeededIds(UuidV7Ids):
    """The same ids in every run with the same seed and clock."""

    def __init__(self, clock: Clock, *, seed: int = 0) -> None:
        super().__init__(clock, entropy=random.Random(seed).randbytes)
