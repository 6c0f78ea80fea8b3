"""The balances of all cells every second, each time as of one consistent moment.

The cells are read concurrently, so one cell's events may have causes that have not yet been read from another. Each
event's vector clock names what it may depend on: the event is applied only after all of that (causal delivery, Birman,
Schiper and Stephenson, 1991). The applied events form a consistent cut, and money must be conserved in it.
"""

import asyncio
from collections import defaultdict, deque
from dataclasses import dataclass, field

from cellbook.v1 import event_pb2
from lab.books import Books, clearing_legs, money_rows, over_all
from lab.market import Market

EVERY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    # Movements that have left one cell and not reached the other, and their sum over all currencies.
    movements: int
    in_transit_minor: int
    wrong: tuple[str, ...]


@dataclass(slots=True)
class Bookkeeper:
    """Reads the logs incrementally, and adds them up."""

    market: Market
    logs: dict[str, list[event_pb2.Event]] = field(init=False)
    books: dict[str, Books] = field(init=False)
    observations: list[Observation] = field(default_factory=list)
    # Events that were read before the events they depend on.
    _early: dict[str, deque[event_pb2.Event]] = field(init=False)
    _moved: dict[tuple[str, str, str], int] = field(default_factory=lambda: defaultdict(int))

    def __post_init__(self) -> None:
        self.logs = {cell: [] for cell in self.market.cells}
        self.books = {cell: Books(cell=cell) for cell in self.market.cells}
        self._early = {cell: deque() for cell in self.market.cells}

    async def watch(self) -> None:
        """Checks every second until cancelled."""
        while True:
            await self.observe()
            await asyncio.sleep(EVERY_S)

    async def observe(self) -> Observation:
        await asyncio.gather(*(self._read(cell) for cell in self.logs))
        while any(self._take_in(cell) for cell in self.logs):
            pass
        observation = self._added_up()
        self.observations.append(observation)
        return observation

    @property
    def wrong(self) -> list[str]:
        return [
            f"look {number}: {line}"
            for number, observation in enumerate(self.observations, start=1)
            for line in observation.wrong
        ]

    async def _read(self, cell: str) -> None:
        position = len(self.logs[cell]) + len(self._early[cell])
        self._early[cell].extend(await self.market.log(cell, position + 1))

    def _take_in(self, cell: str) -> bool:
        """Applies events whose causes have all been applied; returns whether there were any."""
        early, taken = self._early[cell], 0
        while early and self._is_due(early[0]):
            event = early.popleft()
            self.logs[cell].append(event)
            self.books[cell].add(event)
            for leg, amount_minor in clearing_legs(event):
                self._moved[leg] += amount_minor
                if not self._moved[leg]:
                    del self._moved[leg]
            taken += 1
        return taken > 0

    def _is_due(self, event: event_pb2.Event) -> bool:
        known = event.vector_clock.items()
        return all(len(self.logs[cell]) >= position for cell, position in known if cell != event.cell)

    def _added_up(self) -> Observation:
        rows = money_rows(list(self.books.values()))
        wrong = [f"{row.cell}: {row.inside} {row.currency} there" for row in rows if not row.held]
        wrong += [f"{-left} of {leg[0]} came in that was never sent" for leg, left in self._moved.items() if left < 0]
        wrong += [line for own in self.books.values() for line in own.overdrawn]
        for row in over_all(rows):
            moving = sum(left for leg, left in self._moved.items() if leg[2] == row.currency)
            there = row.users + row.escrow + row.fees + row.transit + moving
            if row.deposited - row.withdrawn != there:
                wrong.append(f"all cells: {row.deposited - row.withdrawn} in, {there} {row.currency} there")
        moving = sum(abs(left) for left in self._moved.values())
        return Observation(movements=len(self._moved), in_transit_minor=moving, wrong=tuple(wrong))
