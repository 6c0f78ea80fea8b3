"""Movements between two cells, leg by leg, at one cut through both logs. Pure.

The cut is a stamp at or below which both cells have promised to write nothing more. The stamp of a receipt follows that
of its sending, so every movement received at the cut was also sent at the cut. A movement is one clearing id. Over both
cells its postings sum to zero, or it is in transit: sent by one cell, unknown to the other, its saga not ended. Each
movement is checked separately, so that a lost movement never offsets one that was received twice.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple
from uuid import UUID

from cells.audit.reconcile.findings import Check, Finding


class Side(NamedTuple):
    """A cell's part of one movement at the cut, with all its entries together; none where it only drives the saga."""

    clearing_id: UUID
    currency: str
    amount_minor: int
    entry_count: int
    # The saga that the movement is a leg of; None if no event names it.
    saga_id: UUID | None
    # Whether that saga has ended at the cut; None in a cell that does not drive it.
    saga_ended: bool | None
    # The number of different running sums of its entries, without 0. If a user moves back and forth while money is in
    # transit, each move leaves an entry that reverses the one before: one sum. A leg that was executed twice makes two.
    sum_count: int = 1


class Cut(NamedTuple):
    """Two cells and their sides of the movements between them."""

    here: str
    there: str
    mine: Mapping[UUID, Side]
    theirs: Mapping[UUID, Side]


def matched(cut: Cut) -> tuple[list[Finding], list[UUID]]:
    """The findings, and the movements to check again next time: incomplete or wrong."""
    findings, left = [], []
    for clearing_id in sorted({*cut.mine, *cut.theirs}):
        mine, theirs = cut.mine.get(clearing_id), cut.theirs.get(clearing_id)
        problems = list(_problems(mine, theirs))
        if problems or _amount(mine) + _amount(theirs):
            left.append(clearing_id)
        for expected in problems:
            found = _side_text(cut.here, mine)
            if cut.here != cut.there:
                found = f"{found}; {_side_text(cut.there, theirs)}"
            row = f"movement {clearing_id} between {cut.here} and {cut.there}"
            findings.append(Finding(check=Check.CLEARING, row=row, expected=expected, found=found))
    return findings, left


def _problems(mine: Side | None, theirs: Side | None) -> Iterator[str]:
    sides = [side for side in (mine, theirs) if side is not None]
    if len({side.currency for side in sides if side.entry_count}) > 1:
        yield "one currency"
        return
    if any(side.sum_count > 1 for side in sides):
        yield "entries of one amount in a cell, each of which takes the one before back"
    net = sum(side.amount_minor for side in sides)
    if not net:
        return
    saga = next((side.saga_id for side in sides if side.saga_id is not None), None)
    ended = next((side.saga_ended for side in sides if side.saga_ended is not None), None)
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


def _side_text(cell: str, side: Side | None) -> str:
    if side is None or not side.entry_count:
        return f"{cell}: nothing"
    entries = "1 entry" if side.entry_count == 1 else f"{side.entry_count} entries"
    return f"{cell}: {side.amount_minor:+} {side.currency} in {entries}"
