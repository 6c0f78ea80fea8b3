"""The time that a cell lives by: its hybrid logical clock and what it knows of the other cells' logs."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import structlog

from cells.domain.clock_watch import ClockWatch
from cells.domain.hlc import HybridLogicalClock, Stamp
from cells.domain.refusals import ClockOffsetExceeded, DataLost
from cells.ports import Clock, Head

log = structlog.get_logger()


@dataclass(slots=True, kw_only=True)
class CellTime:
    """Only authenticated peers may move it: see the server's interceptor."""

    cell: str
    clock: Clock
    hlc: HybridLogicalClock
    # Of the own log; what is not durable is told to nobody.
    durable_position: int = 0
    # Of the others: the highest position that this cell has been told of.
    known: dict[str, int] = field(default_factory=dict)
    # Set while this process leads: only then does it know where the log ends, and may give out stamps.
    leading: bool = False
    # How many stamps of each peer were too far ahead.
    refused: Counter[str] = field(default_factory=Counter)
    # How far ahead of our clock each peer's last stamp was; behind, where it is negative.
    offsets_ms: dict[str, int] = field(default_factory=dict)
    _lost: DataLost | None = None
    _lost_position: int = 0
    _watch: ClockWatch = field(init=False)

    def __post_init__(self) -> None:
        self._watch = ClockWatch(wall_ms=self.clock.wall_ms(), monotonic_ms=self._monotonic_ms())

    def resume(self, head: Head) -> None:
        """Takes up what the log's last event knew."""
        # What this process has seen durable itself counts as much as what it was told.
        self._lost_position = max(self.durable_position, self._lost_position)
        self.durable_position = head.position
        # Told while another led and this process did not know yet: nothing was lost.
        self._lost = None
        if head.position < self._lost_position:
            self._lose(self._lost_position)
        for cell, position in head.vector_clock.items():
            if cell != self.cell:
                self.known[cell] = max(position, self.known.get(cell, 0))

    def now_ms(self) -> int:
        """The time by which a batch decides: the physical part of a fresh stamp.

        Raises:
            ClockJumped: the wall clock was set; better to write nothing than to close auctions an hour early.
            DataLost: a peer knows of more of this log than there is.
        """
        if self._lost is not None:
            raise self._lost
        self._watch.check(self.clock.wall_ms(), self._monotonic_ms())
        return self.stamp().physical_ms

    def steady_ms(self) -> int:
        """By which stamps are given out, promised and taken in: a jump moves none of them.

        An hour ahead, they would last: this cell be shunned, and its successor wait, until that hour is over.
        """
        return self._watch.steady(self.clock.wall_ms(), self._monotonic_ms())

    def _monotonic_ms(self) -> int:
        return int(self.clock.monotonic_s() * 1_000)

    def stamp(self) -> Stamp:
        """A stamp greater than every one before. Raises ClockAtBound while no commit raises the bound."""
        return self.hlc.tick(self.steady_ms())

    def stamps(self) -> Callable[[], Stamp]:
        """The same again and again, by one look at the clocks: for what is decided in one go."""
        return partial(self.hlc.tick, self.steady_ms())

    def fall_silent(self) -> int:
        """Gives out no stamp any more. Returns where a successor may begin: right after the last one."""
        self.leading = False
        return self.hlc.last.physical_ms + 1

    def observe(self, stamp: Stamp, vector: dict[str, int], *, peer: str) -> None:
        """Merges what a peer has sent along.

        Raises:
            ClockOffsetExceeded: the peer's stamp is too far ahead; nothing is merged.
            DataLost: the peer knows of more of this cell's log than there is. From then on nothing is decided here.
        """
        claimed = vector.get(self.cell, 0)
        # Who does not lead does not know where the log ends. It may lead before it has done what it is asked here.
        if self.leading and claimed > self.durable_position:
            self.remember(claimed)
            raise self._lose(claimed)
        self.offsets_ms[peer] = stamp.physical_ms - self.clock.wall_ms()
        try:
            self.hlc.observe(stamp, self.steady_ms(), peer=peer)
        except ClockOffsetExceeded:
            self.refused[peer] += 1
            raise
        for cell, position in vector.items():
            if cell != self.cell:
                self.known[cell] = max(position, self.known.get(cell, 0))

    def remember(self, position: int) -> None:
        """The log is known to have reached that: a lead that begins below it decides nothing."""
        self._lost_position = max(position, self._lost_position)

    def told_of_own(self, position: int) -> None:
        """Somebody has seen the log reach that: where it has not, nothing is decided here from now on."""
        if self.leading and position > self.durable_position:
            self.remember(position)
            self._lose(position)

    @property
    def lost(self) -> bool:
        """Whether the log is known to have been longer than it is."""
        return self._lost is not None

    def _lose(self, claimed: int) -> DataLost:
        self._lost = DataLost(cell=self.cell, claimed=claimed, head=self.durable_position)
        log.critical("data_lost", cell=self.cell, claimed=claimed, head=self.durable_position)
        return self._lost

    def vector(self) -> dict[str, int]:
        return {**self.known, self.cell: self.durable_position}
