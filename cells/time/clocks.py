"""Clocks and ids of a running cell."""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from struct import Struct
from uuid import UUID

from cells.store.ports import Clock
from cells.uuids import uuid_from

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Unlike the monotonic clock it runs while the machine sleeps, so waking up is not a jump of the wall clock.
_STEADY_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SystemClock:
    """The machine's clocks."""

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def wall(self) -> datetime:
        return _EPOCH + timedelta(microseconds=time.time_ns() // 1_000)

    def monotonic_s(self) -> float:
        return time.clock_gettime(_STEADY_CLOCK)


_VERSION_7 = 7 << 76
_VARIANT = 2 << 62
# The RFC's rand_a, and rand_b, which is the counter.
_HIGH_BITS = 12
_COUNTER_BITS = 62
_COUNTER_MAX = (1 << _COUNTER_BITS) - 1
# Random bytes are fetched for this many ids at once: one system call per id would dominate the cost.
_STEPS = Struct(">256I")
_RANDOM_BYTES = 10


class UuidV7Ids:
    """UUIDs of version 7 (RFC 9562), strictly increasing within a process.

    Within a millisecond, and while the clock stands or goes back, the last 62 random bits are a counter with random
    steps (the RFC's section 6.2, method 2); when they overflow, the time field runs ahead of the clock.
    """

    def __init__(self, clock: Clock, *, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._clock = clock
        self._entropy = entropy
        self._last_ms = -1
        self._number = 0
        self._number_max = -1
        self._steps: list[int] = []

    def event_id(self) -> UUID:
        now_ms = self._clock.wall_ms()
        if now_ms > self._last_ms:
            self._begin(now_ms)
        else:
            self._number += 1 + (self._steps or self._refilled()).pop()
            if self._number > self._number_max:
                self._begin(self._last_ms + 1)
        return uuid_from(self._number.to_bytes(16))

    def _begin(self, now_ms: int) -> None:
        """The first number of a millisecond."""
        noise = int.from_bytes(self._entropy(_RANDOM_BYTES))
        high = noise >> _COUNTER_BITS & (1 << _HIGH_BITS) - 1
        base = now_ms << 80 | _VERSION_7 | high << 64 | _VARIANT
        self._last_ms = now_ms
        # The counter's highest bit stays clear, which leaves room for steps.
        self._number = base | noise & _COUNTER_MAX >> 1
        self._number_max = base | _COUNTER_MAX

    def _refilled(self) -> list[int]:
        self._steps = list(_STEPS.unpack(self._entropy(_STEPS.size)))
        return self._steps
