"""Clearing with the other cells, at a stamp at or below which both have promised to write nothing more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol
from uuid import UUID

from cells.audit.history.trace import Silent
from cells.audit.reconcile.clearing import Cut, Side, matched
from cells.audit.reconcile.findings import Finding
from cells.cell import Cell
from cells.domain.audit.refusals import StampInFuture
from cells.domain.refusals import NotLeading
from cells.domain.time.hlc import Stamp
from cells.sql import queries
from cells.store.postgres import PostgresStore
from cells.store.sessions import SCAN_TIMEOUT_S

SQL = queries("cells.sql", "clearing.sql")
# Movements in one answer.
PAGE = 2_000


class ClearingBalance(NamedTuple):
    """Of the account clearing/{peer}: what was sent there, less what was received from there."""

    peer: str
    currency: str
    amount_minor: int


class Sides(NamedTuple):
    """A page of a cell's sides; `position` is where its log is cut."""

    position: int
    sides: Sequence[Side]
    # Whether more follow.
    more: bool


class SidesWanted(NamedTuple):
    """Movements with `peer` at the cut `until`: those touched after a position and after an id, or the given ids."""

    peer: str
    until: Stamp
    after_position: int = 0
    after_id: UUID | None = None
    clearing_ids: Sequence[UUID] = ()
    # For each of these the saga that the other side names, where it names one: the cell that drives it and has no entry
    # yet, as money is on its way there, still tells whether it has ended.
    saga_ids: Sequence[UUID | None] = ()


class CutPeers(Protocol):
    async def names(self) -> tuple[Sequence[str], str]:
        """The other cells, and the problem with the list: empty if it is complete."""

    async def sides(self, cell: str, wanted: SidesWanted) -> Sides:
        """Raises Silent."""


class Compared(NamedTuple):
    findings: Sequence[Finding] = ()
    # Movements that are in transit, or wrong.
    open_count: int = 0
    cells: Sequence[str] = ()
    # Cell -> why it was not compared; "": there may be more cells.
    missing: Mapping[str, str] = {}
    until: Stamp = Stamp(0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clearing:
    """Lists this cell's sides up to a cut, and compares them with those of every other cell."""

    cell: Cell
    store: PostgresStore
    peers: CutPeers

    async def promise(self, until: Stamp) -> int:
        """The position of the cut: no later event has a stamp at or below `until`.

        Raises:
            NotLeading: only the leader can promise.
            StampInFuture: this cell's clock has not reached the stamp.
        """
        time, writer = self.cell.time, self.cell.writer
        if not writer.leading:
            raise NotLeading(cell=self.cell.name)
        if time.hlc.last < until and time.stamp() < until:
            raise StampInFuture(cell=self.cell.name, physical_ms=until.physical_ms, logical=until.logical)
        # New stamps are greater from here on; those given out before are being committed.
        await writer.settled()
        if not writer.leading:
            raise NotLeading(cell=self.cell.name)
        [(position,)] = await self.store.fetch(SQL["position_at"], until.physical_ms, until.logical)
        return int(position)

    async def sides(self, wanted: SidesWanted) -> Sides:
        position = await self.promise(wanted.until)
        ids = wanted.clearing_ids
        if not ids:
            where = (wanted.peer, wanted.after_position, position, wanted.after_id, PAGE)
            touched = await self.store.fetch(SQL["touched"], *where, timeout_s=SCAN_TIMEOUT_S)
            ids = [row["clearing_id"] for row in touched]
        sagas = [*wanted.saga_ids] or [None] * len(ids)
        rows = await self.store.fetch(SQL["sides"], wanted.peer, list(ids), position, sagas, timeout_s=SCAN_TIMEOUT_S)
        return Sides(position, [Side(*row) for row in rows], more=not wanted.clearing_ids and len(ids) == PAGE)

    async def balances(self) -> list[ClearingBalance]:
        """Those that are not zero, by peer. Raises StoreError."""
        return [ClearingBalance(*row) for row in await self.store.fetch(SQL["balances"])]

    async def compare(self, *, full: bool) -> Compared:
        """Compares movements that were not found complete before, or all. Names other cells that do not answer.

        Raises what `promise` raises.
        """
        here, until = self.cell.name, self.cell.time.stamp()
        names, problem = await self.peers.names()
        # The cells that this one has had movements with.
        known = [row["peer"] for row in await self.store.fetch(SQL["peers"])]
        findings: list[Finding] = []
        open_count, cells, missing = 0, [], {"": problem} if problem else {}
        for peer in sorted({here, *names, *known}):
            try:
                found, left = await self._with(peer, until, full=full)
            except Silent as error:
                missing[peer] = str(error)
                continue
            cells.append(peer)
            findings += found
            open_count += len(left)
        return Compared(findings, open_count, cells, missing, until)

    async def _with(self, peer: str, until: Stamp, *, full: bool) -> tuple[list[Finding], list[UUID]]:
        here, last = self.cell.name, [] if full else await self.store.fetch(SQL["last_cut"], peer)
        # The positions here and there up to which movements were compared, and those that were incomplete then.
        position, peer_position, still_open = last[0] if last else (0, 0, [])
        mine: dict[UUID, Side] = {}
        theirs: dict[UUID, Side] = {}
        if peer != here:
            peer_position = await self._touched(peer, SidesWanted(here, until, peer_position), theirs)
        position = await self._touched(here, SidesWanted(peer, until, position), mine)
        opened = dict.fromkeys(still_open)
        await self._rest(here, SidesWanted(peer, until), {**opened, **theirs}, mine)
        if peer != here:
            await self._rest(peer, SidesWanted(here, until), {**opened, **mine}, theirs)
        findings, left = matched(Cut(here, peer, mine, theirs))
        await self.store.fetch(SQL["put_cut"], peer, position, peer_position, left)
        return findings, left

    async def _sides(self, cell: str, wanted: SidesWanted) -> Sides:
        return await (self.sides(wanted) if cell == self.cell.name else self.peers.sides(cell, wanted))

    async def _touched(self, cell: str, wanted: SidesWanted, sides: dict[UUID, Side]) -> int:
        while True:
            page = await self._sides(cell, wanted)
            sides |= {side.clearing_id: side for side in page.sides}
            if not page.more:
                return page.position
            wanted = wanted._replace(after_id=page.sides[-1].clearing_id)

    async def _rest(
        self, cell: str, wanted: SidesWanted, others: Mapping[UUID, Side | None], sides: dict[UUID, Side]
    ) -> None:
        """The cell's part of movements that only the other side has named."""
        left = sorted(others.keys() - sides.keys())
        for first in range(0, len(left), PAGE):
            ids = left[first : first + PAGE]
            sagas = [other.saga_id if (other := others[each]) else None for each in ids]
            page = await self._sides(cell, wanted._replace(clearing_ids=ids, saga_ids=sagas))
            sides |= {side.clearing_id: side for side in page.sides}
