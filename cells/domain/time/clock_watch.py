"""Detects that the wall clock was set: a cell must not close auctions by a clock that has jumped."""

from cells.domain.refusals import ClockJumped

DEFAULT_JUMP_LIMIT_MS = 500
# A steered clock moves by up to 500 parts in a million, 1 ms in 2 s. The watch follows that much.
_DRIFT_STEP_MS = 2_000


class ClockWatch:
    """Compares the wall clock with a monotonic one. All readings are in milliseconds.

    It follows steering, also over months, but not a jump of more than `limit_ms`, so it recovers by itself when the
    wall clock is corrected.
    """

    __slots__ = ("_followed_ms", "_offset_ms", "limit_ms")

    def __init__(self, *, wall_ms: int, monotonic_ms: int, limit_ms: int = DEFAULT_JUMP_LIMIT_MS) -> None:
        self.limit_ms = limit_ms
        self._offset_ms = wall_ms - monotonic_ms
        self._followed_ms = monotonic_ms

    def check(self, wall_ms: int, monotonic_ms: int) -> None:
        """Call this before time is used.

        Raises:
            ClockJumped: the wall clock is ahead (positive) or behind by more than the limit.
        """
        jump_ms = wall_ms - monotonic_ms - self._offset_ms
        if abs(jump_ms) > self.limit_ms:
            raise ClockJumped(jump_ms=jump_ms)
        steps = (monotonic_ms - self._followed_ms) // _DRIFT_STEP_MS
        if steps > 0:
            self._followed_ms += steps * _DRIFT_STEP_MS
            self._offset_ms += max(-steps, min(steps, jump_ms))

    def steady(self, wall_ms: int, monotonic_ms: int) -> int:
        """The wall clock's time; after a jump, the time that it would show without the jump."""
        unmoved_ms = monotonic_ms + self._offset_ms
        return wall_ms if abs(wall_ms - unmoved_ms) <= self.limit_ms else unmoved_ms

    def accept(self, wall_ms: int, monotonic_ms: int) -> None:
        """An operator's confirmation that the wall clock is right as it is."""
        self._offset_ms = wall_ms - monotonic_ms
        self._followed_ms = monotonic_ms
