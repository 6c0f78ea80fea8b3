"""Exports the log as a file that anyone can check and that an empty cell can be made from (docs/log-format.md).

The export is sent in pieces while the cell serves. Its end is fixed when it begins, and a client that loses its
connection resumes after the last line that it has.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cells.audit.export import lines
from cells.audit.proofs.ports import ExportHead, ProofStore
from cells.audit.proofs.tree import TreeIncomplete, TreeReader
from cells.audit.verify.export import EXPORT
from cells.audit.verify.tree import TILE_WIDTH
from cells.domain.audit.refusals import EventNotFound
from cells.domain.refusals import Unavailable
from cells.store.outcomes import NO_OUTCOME, OutcomePlace, outcome_place
from cells.store.ports import StoreError

# A page takes some milliseconds; the writer can run after each.
PAGE_EVENTS = 128
PAGE_OUTCOMES = 256


class Piece(NamedTuple):
    """Whole lines, and the place that they reach."""

    lines: bytes
    position: int
    to_position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Both positions are included; `to_position` 0: the current head. From 1 to the head, the export is whole.

    To resume an interrupted export, set `resumed`, start at the next position, keep the same end, and set `whole` if it
    began so. If it had reached the outcomes, set `after_command` to the last of them.
    """

    from_position: int = 1
    to_position: int = 0
    resumed: bool = False
    whole: bool = False
    after_command: OutcomePlace | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exporter:
    cell: str
    origin: str
    # The keys of the log and of this cell as a witness, for people. Verifiers must get keys from elsewhere.
    keys: Sequence[str]
    proofs: ProofStore

    async def pieces(self, wanted: Wanted) -> AsyncGenerator[Piece, None]:
        """Raises EventNotFound, Unavailable."""
        try:
            head = await self.proofs.export_head()
            end = wanted.to_position or head.position
            if not 1 <= wanted.from_position <= end + 1 or end > head.position:
                raise EventNotFound(cell=self.cell, position=max(end, wanted.from_position), head=head.position)
            whole = wanted.whole if wanted.resumed else (wanted.from_position, wanted.to_position) == (1, 0)
            async for content, position in self._parts(wanted, head, end, whole=whole):
                yield Piece(content, position, end)
                await asyncio.sleep(0)
        except StoreError as error:
            raise Unavailable(problem=str(error)) from error

    async def _parts(
        self, wanted: Wanted, head: ExportHead, end: int, *, whole: bool
    ) -> AsyncIterator[tuple[bytes, int]]:
        first = wanted.from_position
        if not wanted.resumed:
            yield await self._header(first, end, head, whole=whole), first - 1
        if whole and first == 1:
            # Before the events, so that a client that has any event has all of these.
            async for content in self._moved(end):
                yield content, first - 1
        if wanted.after_command is None:
            async for content, position in self._events(first, end):
                yield content, position
        if whole:
            async for content in self._outcomes(end, wanted.after_command):
                yield content, end
        yield await self._beyond(end) + await self._end(end, whole=whole), end

    async def _header(self, first: int, end: int, head: ExportHead, *, whole: bool) -> bytes:
        return lines.headed(
            EXPORT,
            {
                "cell": self.cell,
                "from": first,
                "head": {name: value for name, value in head._asdict().items() if name != "position"},
                "keys": [*self.keys],
                "origin": self.origin,
                "prefix": [lines.text64(peak) for peak in await TreeReader(self.proofs, first - 1).peaks()],
                "to": end,
                "whole": whole,
            },
        )

    async def _events(self, first: int, end: int) -> AsyncIterator[tuple[bytes, int]]:
        """Events, with the tiles that the tree was made from and the checkpoints at their positions."""
        position, tile = first, -1
        while rows := await self.proofs.export_events(position, end, PAGE_EVENTS):
            signed = {each.size: each for each in await self.proofs.checkpoints(rows[0].position, PAGE_EVENTS)}
            parts: list[bytes] = []
            for row in rows:
                if (row.position - 1) // TILE_WIDTH != tile:
                    tile = (row.position - 1) // TILE_WIDTH
                    parts.append(lines.line({"tile": tile, "hashes": lines.text64(await self._tile(tile, end))}))
                parts.append(lines.event_line(row))
                if row.position in signed:
                    parts.append(lines.line({"checkpoint": signed[row.position].text}))
            position = rows[-1].position + 1
            yield b"".join(parts), position - 1

    async def _tile(self, place: int, end: int) -> bytes:
        """The tile from the tree, or, if it is not full, the hashes of the rows up to the end of the export."""
        first = place * TILE_WIDTH
        full = await self.proofs.tile(0, place)
        return full if full is not None else await self.proofs.leaf_hashes(first, min(first + TILE_WIDTH, end))

    async def _moved(self, end: int) -> AsyncIterator[bytes]:
        last = None
        while found := await self.proofs.export_moved(end, last, PAGE_EVENTS):
            yield b"".join([lines.moved_line(each) for each in found])
            last = found[-1]

    async def _outcomes(self, end: int, after: OutcomePlace | None) -> AsyncIterator[bytes]:
        last = after or NO_OUTCOME
        while rows := await self.proofs.export_outcomes(end, last, PAGE_OUTCOMES):
            yield b"".join([lines.outcome_line(row) for row in rows])
            last = outcome_place(rows[-1])

    async def _beyond(self, end: int) -> bytes:
        """The next checkpoint, with the proof that it extends the exported events."""
        following = await self.proofs.checkpoints(end + 1, 1)
        if not following:
            return b""
        try:
            path = await TreeReader(self.proofs, following[0].size).consistency(end)
        except TreeIncomplete:
            # The events under the checkpoint are no longer there: the verifier reports it.
            path = []
        return lines.line({"checkpoint": following[0].text, "consistency": [lines.text64(step) for step in path]})

    async def _end(self, end: int, *, whole: bool) -> bytes:
        try:
            root = await TreeReader(self.proofs, end).root()
        except TreeIncomplete:
            root = b""
        return lines.line({"end": {"position": end, "root": lines.text64(root), "whole": whole}})
