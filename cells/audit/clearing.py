"""Movements between two cells, leg by leg, at one cut through both logs. Pure.

The cut is a stamp that each of the two has promised to write nothing at or below any more. Receiving comes after
sending, and so do their stamps: what has arrived at the cut was sent at the cut. A movement is one clearing id. Over
both cells its postings sum to zero, or it is on its way: sent by one, not known to the other, its saga not ended.
Each is looked at by itself, so that one that was lost never makes up for one that came twice.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple
from uuid import UUID

from cells.audit.findings import Check, Finding


class Side(NamedTuple):
    """What one cell has of one movement at the cut, all its entries together; none where it only drives the saga."""

    clearing_id: UUID
    currency: str
    amount_minor: int
    entries_count: int
    # The saga that the movement is a leg of; None where no event says so.
    saga_id: UUID | None
    # Whether that saga has ended at the cut; None in a cell that does not drive it.
    ended: bool | None
    # How many different sums its entries came to one after the other, 0 left out. A user who moves to and fro while
    # money is on its way leaves an entry a move, each of which takes the one before back: one sum. A leg that was taken
    # twice makes two.
    sums_count: int = 1


class Cut(NamedTuple):
    """Two cells, and the sides of movements between them."""

    here: str
    there: str
    mine: Mapping[UUID, Side]
    theirs: Mapping[UUID, Side]


def matched(cut: Cut) -> tuple[list[Finding], list[UUID]]:
    """What is wrong, and the movements that are to be looked at again next time: not yet done, or wrong."""
    findings, left = [], []
    for clearing_id in sorted({*cut.mine, *cut.theirs}):
        mine, theirs = cut.mine.get(clearing_id), cut.theirs.get(clearing_id)
        problems = list(_problems(mine, theirs))
        if problems or _amount(mine) + _amount(theirs):
            left.append(clearing_id)
        for expected in problems:
            found = f"{_told(cut.here, mine)}; {_told(cut.there, theirs)}"
            if cut.here == cut.there:
                found = _told(cut.here, mine)
            row = f"movement {clearing_id} between {cut.here} and {cut.there}"
            findings.append(Finding(check=Check.CLEARING, row=row, expected=expected, found=found))
    return findings, left


def _problems(mine: Side | None, theirs: Side | None) -> Iterator[str]:
    sides = [side for side in (mine, theirs) if side is not None]
    if len({side.currency for side in sides if side.entries_count}) > 1:
        yield "one currency"
        return
    if any(side.sums_count > 1 for side in sides):
        yield "entries of one amount in a cell, each of which takes the one before back"
    net = sum(side.amount_minor for side in sides)
    if not net:
        return
    saga = next((side.saga_id for side in sides if side.saga_id is not None), None)
    ended = next((side.ended for side in sides if side.ended is not None), None)
    if ended is None:
        yield f"a saga that one of the two drives: neither knows {saga or 'of one'}"
    elif ended:
        yield f"sides that sum to zero: saga {saga} has ended"
    elif net < 0 or any(side.amount_minor < 0 for side in sides):
        yield "that no more has arrived than was sent"
    elif len([side for side in sides if side.amount_minor]) > 1:
        yield "that it was sent from one side alone"


def _amount(side: Side | None) -> int:
    return 0 if side is None else side.amount_minor


def _told(cell: str, side: Side | None) -> str:
    if side is None or not side.entries_count:
        return f"{cell}: nothing"
    entries = "1 entry" if side.entries_count == 1 else f"{side.entries_count} entries"
    return f"{cell}: {side.amount_minor:+} {side.currency} in {entries}"
