"""A statement: each movement of an account between two moments, with the balance before and after it.

Every row is compared with its event, whose bytes must give its leaf hash, and with the row before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from cells.audit.history.moments import BEGINNING, Moment, Point
from cells.audit.history.ports import Buckets
from cells.audit.history.questions import History
from cells.domain.audit.refusals import LogIncomplete
from cells.domain.refusals import FieldInvalid
from cells.domain.values import Posting
from cells.encoding import codec
from cells.store.ports import AccountEntryRow, EventRow

NOTHING: Buckets = (0, 0, 0)


class Span(NamedTuple):
    """After one point, up to and including another."""

    after: Point
    until: Point


class StatementCursor(NamedTuple):
    """The cursor of a statement: a currency and a position."""

    currency: str
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    row: EventRow
    currency: str
    before: Buckets
    change: Buckets
    after: Buckets
    counter_postings: Sequence[Posting]
    # The type of the causing event; empty if that is not in this log.
    cause_event_type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    currency: str
    opening: Buckets
    closing: Buckets
    change: Buckets
    movements: int

    @property
    def proved(self) -> bool:
        return self.closing == _sum(self.opening, self.change)


class Page(NamedTuple):
    movements: Sequence[Movement]
    # None: this is the last page.
    next_place: StatementCursor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Statements:
    history: History

    async def span(self, user_id: UUID, after: Moment | None, until: Moment | None) -> Span:
        """The two end points of a statement.

        Raises:
            UserNotFound, NotThereYet, and what `History.point` raises.
            FieldInvalid: the end is before the beginning.
        """
        if until is None:
            until = Moment(position=(await self.history.store.head()).position)
        # A user without an account at the end has no statement.
        end = await self.history.account_at(user_id, until)
        start = await self.history.point(after) if after is not None else BEGINNING
        if start.position > end.position:
            raise FieldInvalid(field="from", problem="lies after the end of the statement", value=str(after))
        return Span(start, end)

    async def totals(self, user_id: UUID, span: Span, currency: str) -> list[Total]:
        """The totals of one currency, or of all that the account had by the end."""
        return [await self._total(user_id, span, each) for each in await self._currencies(user_id, span, currency)]

    async def _total(self, user_id: UUID, span: Span, currency: str) -> Total:
        after, until = span.after.position, span.until.position
        movements, change = await self.history.lookups.movements_sum(user_id, currency, after, until)
        opening = _after(await self.history.lookups.entry_at(user_id, currency, after))
        closing = _after(await self.history.lookups.entry_at(user_id, currency, until))
        return Total(currency=currency, opening=opening, closing=closing, change=change, movements=movements)

    async def _currencies(self, user_id: UUID, span: Span, currency: str) -> list[str]:
        held = await self.history.held(user_id, span.until)
        return sorted(code for code in held if currency in {"", code})

    async def page(self, user_id: UUID, span: Span, currency: str, place: StatementCursor | None, size: int) -> Page:
        """The next movements after `place`. Raises EntryDamaged, EventDamaged or LogIncomplete at the first bad one."""
        entries: list[tuple[AccountEntryRow, AccountEntryRow | None]] = []
        for code in await self._currencies(user_id, span, currency):
            if (place is None or code >= place.currency) and len(entries) <= size:
                begun = place.position if place is not None and code == place.currency else span.after.position
                before = await self.history.lookups.entry_at(user_id, code, begun)
                limit = size + 1 - len(entries)
                rows = await self.history.lookups.movements(user_id, code, begun, span.until.position, limit)
                entries += zip(rows, [before, *rows], strict=False)
        shown = entries[:size]
        more = StatementCursor(shown[-1][0].currency, shown[-1][0].position) if len(entries) > size else None
        return Page(await self._movements(shown), more)

    async def _movements(self, entries: Sequence[tuple[AccountEntryRow, AccountEntryRow | None]]) -> list[Movement]:
        sources = await self.history.lookups.rows_at([entry.position for entry, _ in entries])
        by_position = {each.row.position: each for each in sources}
        causes = [each.row.causation_id for each in sources if each.row.causation_id is not None]
        types = await self.history.lookups.types_of(causes)
        movements = []
        for entry, before in entries:
            source = by_position.get(entry.position)
            self.history.believed(entry, before, source)
            if source is None:
                raise LogIncomplete(cell=self.history.cell, where=f"position {entry.position}")
            movements.append(_movement(entry, before, source.row, types))
        return movements


def _movement(
    entry: AccountEntryRow, before: AccountEntryRow | None, row: EventRow, types: dict[UUID, str]
) -> Movement:
    own = f"users/{entry.account_id}/"
    counter = [line for line in codec.postings_of(row) if not line.account.startswith(own)]
    return Movement(
        row=row,
        currency=entry.currency,
        before=_after(before),
        change=(entry.available_change, entry.reserved_change, entry.pending_change),
        after=_after(entry),
        counter_postings=counter,
        cause_event_type=types.get(row.causation_id, "") if row.causation_id is not None else "",
    )


def _after(entry: AccountEntryRow | None) -> Buckets:
    return (entry.available_after, entry.reserved_after, entry.pending_after) if entry is not None else NOTHING


def _sum(one: Buckets, other: Buckets) -> Buckets:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]
