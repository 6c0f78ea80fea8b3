"""The time that a cell lives by: its hybrid logical clock and what it knows of the other cells' logs."""

from dataclasses import dataclass, field

from cells.domain.hlc import HybridLogicalClock, Stamp
from cells.domain.refusals import DataLost
from cells.ports import Clock, Head


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

    def resume(self, head: Head) -> None:
        """Takes up what the log's last event knew."""
        self.durable_position = head.position
        for cell, position in head.vector_clock.items():
            if cell != self.cell:
                self.known[cell] = max(position, self.known.get(cell, 0))

    def stamp(self) -> Stamp:
        return self.hlc.tick(self.clock.wall_ms())

    def observe(self, stamp: Stamp, vector: dict[str, int], *, peer: str) -> None:
        """Merges what a peer has sent along.

        Raises:
            ClockOffsetExceeded: the peer's stamp is too far ahead; nothing is merged.
            DataLost: the peer knows of more of this cell's log than there is.
        """
        claimed = vector.get(self.cell, 0)
        if claimed > self.durable_position:
            raise DataLost(cell=self.cell, claimed=claimed, head=self.durable_position)
        self.hlc.observe(stamp, self.clock.wall_ms(), peer=peer)
        for cell, position in vector.items():
            if cell != self.cell:
                self.known[cell] = max(position, self.known.get(cell, 0))

    def vector(self) -> dict[str, int]:
        return {**self.known, self.cell: self.durable_position}
