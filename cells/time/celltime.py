"""A cell's time: its hybrid logical clock, and its knowledge of the other cells' logs."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import structlog

from cells.domain.audit.refusals import BeyondHead, TooManyCells
from cells.domain.refusals import ClockOffsetExceeded, DataLost
from cells.domain.time.clock_watch import ClockWatch
from cells.domain.time.hlc import HybridLogicalClock, Stamp
from cells.domain.time.vector import CELLS_MAX
from cells.store.ports import Clock, Head

log = structlog.get_logger()

# The number of cells that must claim a longer log before the cell stops: one alone may lie.
CLAIMS_TO_STOP = 2


class Claims(NamedTuple):
    """Claims of other cells about positions of this log beyond its head."""

    by_peer: dict[str, int]
    # From a checkpoint with this cell's own signature; 0: none.
    proven: int


NO_CLAIMS = Claims({}, 0)


@dataclass(slots=True, kw_only=True)
class CellTime:
    """Only authenticated peers may move it: see the server's interceptor.

    A peer is believed only about its own log. Its statement about this log is a claim, judged once the database has
    confirmed, by a commit begun after the claim, where this log ends and that this process leads.
    """

    cell: str
    clock: Clock
    hlc: HybridLogicalClock
    # Of this cell's own log; a position that is not durable is never reported.
    durable_position: int = 0
    # Of the other cells: the highest position that each has reported of its own log.
    known: dict[str, int] = field(default_factory=dict)
    # Cells whose positions are not loaded from the log when this process begins to lead: each reports its own.
    forgotten: frozenset[str] = frozenset()
    # Set by an operator: claims about this log up to here are wrong, or the missing events are known to be lost.
    accepted_position: int = 0
    # Peer -> the position beyond the head that it claims of this log, once the database has confirmed the head.
    disputed: dict[str, int] = field(default_factory=dict)
    # Set while this process leads: only then does it know the end of the log, and may issue stamps.
    leading: bool = False
    # The number of stamps of each peer that were too far ahead.
    refused: Counter[str] = field(default_factory=Counter)
    # How far each peer's last stamp was ahead of our clock; negative: behind.
    offsets_ms: dict[str, int] = field(default_factory=dict)
    _lost: DataLost | None = None
    _lost_position: int = 0
    # Claims that no commit has confirmed or refuted yet.
    _claims: dict[str, int] = field(default_factory=dict)
    _proven: int = 0
    _watch: ClockWatch = field(init=False)

    def __post_init__(self) -> None:
        self._watch = ClockWatch(wall_ms=self.clock.wall_ms(), monotonic_ms=self._monotonic_ms())

    def resume(self, head: Head) -> None:
        """Loads the vector clock of the log's last event."""
        # Positions that this process has seen durable itself count as much as claims.
        self._lost_position = max(self.durable_position, self._lost_position)
        self.durable_position = head.position
        # Claimed while another process led, which this one did not know yet: nothing was lost.
        self._lost = None
        self._claims, self._proven = {}, 0
        self.disputed.clear()
        if head.position < self._lost_position:
            self._lose(self._lost_position)
        for cell, position in head.vector_clock.items():
            if cell != self.cell and cell not in self.forgotten:
                self.known[cell] = max(position, self.known.get(cell, 0))

    def check(self) -> None:
        """Whether a decision is allowed now.

        Raises:
            ClockJumped: the wall clock was set; writing nothing is better than closing auctions an hour early.
            DataLost: the log is known to have been longer.
            ClockAtBound: there are no stamps left before the bound.
        """
        if self._lost is not None:
            raise self._lost
        self._watch.check(self.clock.wall_ms(), self._monotonic_ms())
        self.stamp()

    def steady_ms(self) -> int:
        """The time for issuing, promising and accepting stamps, which a jump of the wall clock does not move.

        Otherwise a jump by an hour would last: peers would refuse this cell, and its successor would wait, for an hour.
        """
        return self._watch.steady(self.clock.wall_ms(), self._monotonic_ms())

    def _monotonic_ms(self) -> int:
        return int(self.clock.monotonic_s() * 1_000)

    def stamp(self) -> Stamp:
        """A stamp greater than every one before. Raises ClockAtBound until a commit raises the bound."""
        return self.hlc.tick(self.steady_ms())

    def stamps(self) -> tuple[Callable[[], Stamp], Callable[[], int]]:
        """Functions for further stamps from one reading of the clocks, and for the time of the next stamp.

        Used for commands that are decided together: each is decided by exactly the time of its events' stamps.
        """
        steady_ms = self.steady_ms()
        return partial(self.hlc.tick, steady_ms), partial(self.hlc.next_ms, steady_ms)

    def fall_silent(self) -> int:
        """Issues no more stamps. Returns where a successor may begin: right after the last one."""
        self.leading = False
        return self.hlc.last.physical_ms + 1

    def observe(self, stamp: Stamp, vector: dict[str, int], *, peer: str) -> None:
        """Merges a peer's stamp and its own log's position. Its statements about third cells are ignored.

        Raises:
            ClockOffsetExceeded: the peer's stamp is too far ahead; nothing is merged.
            TooManyCells: the vector clock has no room for another cell; nothing is merged.
            BeyondHead: the peer claims a position of this log that does not exist; nothing is merged.
        """
        if peer not in self.known and len(self.known) >= CELLS_MAX - 1:
            raise TooManyCells(peer=peer, most=CELLS_MAX)
        self._hear(vector.get(self.cell, 0), peer)
        self.offsets_ms[peer] = stamp.physical_ms - self.clock.wall_ms()
        try:
            self.hlc.observe(stamp, self.steady_ms(), peer=peer)
        except ClockOffsetExceeded:
            self.refused[peer] += 1
            raise
        if peer != self.cell and peer in vector:
            self.known[peer] = max(vector[peer], self.known.get(peer, 0))

    def _hear(self, claimed: int, peer: str) -> None:
        # A process that does not lead does not know the log's end, but may lead before it executes the request.
        if not self.leading or claimed <= max(self.durable_position, self.accepted_position):
            if self.disputed.pop(peer, None) is not None:
                log.info("position_undisputed", peer=peer, position=claimed)
            return
        self._claims[peer] = claimed
        raise BeyondHead(peer=peer, cell=self.cell, claimed=claimed, head=self.durable_position)

    def remember(self, position: int) -> None:
        """Records that the log has reached that position: a lead that begins below it decides nothing."""
        self._lost_position = max(position, self._lost_position)

    def prove(self, position: int) -> None:
        """A checkpoint signed by this cell itself proves that the log has reached that position."""
        if self.leading and position > self.durable_position:
            self._proven = max(position, self._proven)

    def claim(self, position: int, *, peer: str) -> None:
        """A peer claims that position without proof."""
        if self.leading and position > max(self.durable_position, self.accepted_position):
            self._claims[peer] = position

    def open_claims(self) -> Claims:
        """The current claims, to be judged by a commit that begins now."""
        if not self._claims and not self._proven:
            return NO_CLAIMS
        claims = Claims(self._claims, self._proven)
        self._claims, self._proven = {}, 0
        return claims

    def confirm(self, claims: Claims, *, position: int, bound_ms: int) -> None:
        """A commit that began with `claims` is durable: this process leads, and its log ends at `position`."""
        self.hlc.raise_bound(bound_ms)
        if claims is not NO_CLAIMS:
            self._judge(claims, position)

    def _judge(self, claims: Claims, position: int) -> None:
        beyond = {peer: claimed for peer, claimed in claims.by_peer.items() if claimed > position}
        for peer in beyond.keys() - self.disputed.keys():
            log.critical("position_disputed", peer=peer, claimed=beyond[peer], head=position)
        self.disputed = {peer: claimed for peer, claimed in (self.disputed | beyond).items() if claimed > position}
        if claims.proven > position:
            self._lose(claims.proven)
        elif beyond and len(self.disputed) >= CLAIMS_TO_STOP:
            self._lose(min(self.disputed.values()))

    @property
    def ahead_ms(self) -> int:
        """How far the hybrid clock is ahead of this machine's clock; 0: it is not."""
        return max(self.hlc.last.physical_ms - self.clock.wall_ms(), 0)

    @property
    def lost(self) -> bool:
        """Whether the log is known to have been longer."""
        return self._lost is not None

    def _lose(self, claimed: int) -> None:
        if self._lost is None:
            log.critical("data_lost", cell=self.cell, claimed=claimed, head=self.durable_position)
        self._lost = DataLost(cell=self.cell, claimed=claimed, head=self.durable_position)

    def vector(self) -> dict[str, int]:
        return {**self.known, self.cell: self.durable_position}
