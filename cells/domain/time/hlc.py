"""The hybrid logical clock: time that orders causes before effects, close to the wall clock.

Kulkarni, Demirbas, Madeppa, Avva, Leone: "Logical Physical Clocks and Consistent Snapshots in Globally
Distributed Databases", 2014. https://cse.buffalo.edu/tech-reports/2014-04.pdf

Two rules are added to the paper's. A remote clock that is too far ahead is refused, so that one wrong clock does not
affect the others. And no stamp is issued at or past a bound that was promised durably, so a successor that starts at
the bound issues only greater stamps.
"""

from typing import NamedTuple, Self

from cells.domain.record import made
from cells.domain.refusals import ClockAtBound, ClockOffsetExceeded, FieldInvalid

LOGICAL_BITS = 16
LOGICAL_MAX = (1 << LOGICAL_BITS) - 1
# The field has 48 bits; the highest one would turn a signed 64-bit column negative (in the year 6429).
PHYSICAL_MAX_MS = (1 << 47) - 1
PACKED_DIGITS_MAX = 19
DEFAULT_MAX_OFFSET_MS = 500


class Stamp(NamedTuple):
    """Ordered as a tuple, and packed in the same order. The cells' names break ties between cells."""

    physical_ms: int
    logical: int

    def pack(self) -> int:
        """48 bits of milliseconds above 16 bits of counter."""
        return self.physical_ms << LOGICAL_BITS | self.logical

    @classmethod
    def unpack(cls, packed: int) -> Self:
        return cls(packed >> LOGICAL_BITS, packed & LOGICAL_MAX)

    @classmethod
    def parse(cls, text: str, *, field: str) -> Self:
        """Reads a packed stamp from its decimal form, as the metadata carries it.

        Raises:
            FieldInvalid: not a decimal number, or more than a stamp can be.
        """
        # int() alone would also accept signs, blanks, underscores and other alphabets' digits.
        if not (text.isascii() and text.isdigit()) or len(text) > PACKED_DIGITS_MAX:
            raise FieldInvalid(field=field, problem="not a packed clock stamp", value=text[:PACKED_DIGITS_MAX])
        stamp = cls.unpack(int(text))
        if stamp.physical_ms > PHYSICAL_MAX_MS:
            raise FieldInvalid(field=field, problem="past the clock's range", value=text)
        return stamp


class HybridLogicalClock:
    """The clock of one cell. The caller passes the wall clock's reading, which may go back or stand still.

    It starts at `start_ms`, where a predecessor's promise ended, and issues nothing before `raise_bound`.
    `last` is the greatest stamp issued or received.
    """

    __slots__ = ("bound_ms", "last", "max_offset_ms")

    def __init__(self, *, start_ms: int = 0, max_offset_ms: int = DEFAULT_MAX_OFFSET_MS) -> None:
        self.last = _before(start_ms)
        self.bound_ms = start_ms
        self.max_offset_ms = max_offset_ms

    def tick(self, now_ms: int) -> Stamp:
        """A stamp greater than every one issued or received before.

        Raises:
            ClockAtBound: all stamps before the bound are used up; nothing has changed.
        """
        last_ms, logical = self.last
        physical_ms = now_ms if now_ms < self.bound_ms else self.bound_ms - 1
        if physical_ms > last_ms:
            logical = 0
        elif logical < LOGICAL_MAX:
            physical_ms, logical = last_ms, logical + 1
        else:
            physical_ms, logical = last_ms + 1, 0
        if physical_ms >= self.bound_ms:
            raise ClockAtBound(bound_ms=self.bound_ms)
        self.last = stamp = made(Stamp, (physical_ms, logical))
        return stamp

    def next_ms(self, now_ms: int) -> int:
        """The milliseconds of the next tick's stamp, unless a full counter carries over."""
        last_ms = self.last.physical_ms
        return max(last_ms, now_ms if now_ms < self.bound_ms else self.bound_ms - 1)

    def observe(self, remote: Stamp, now_ms: int, *, peer: str) -> None:
        """Takes in a stamp that came with a message: the next tick is greater than it.

        Raises:
            ClockOffsetExceeded: it is too far ahead of the wall clock; nothing has changed.
        """
        offset_ms = remote.physical_ms - now_ms
        if offset_ms > self.max_offset_ms:
            raise ClockOffsetExceeded(peer=peer, offset_ms=offset_ms, max_offset_ms=self.max_offset_ms)
        self.last = max(self.last, remote)

    def raise_bound(self, bound_ms: int) -> None:
        """Call this once the promise is durable; a bound lower than the current one has no effect."""
        self.bound_ms = max(self.bound_ms, bound_ms)

    def restart(self, start_ms: int) -> None:
        """Continues from the end of another promise: no stamp before `start_ms` is issued any more."""
        self.last = max(self.last, _before(start_ms))
        self.raise_bound(start_ms)


def _before(start_ms: int) -> Stamp:
    """The greatest stamp before `start_ms`."""
    return Stamp(start_ms - 1, LOGICAL_MAX) if start_ms > 0 else Stamp(0, 0)
