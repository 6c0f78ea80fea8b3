"""Compares copies of a user's events from earlier homes with this cell's own log.

ACCOUNT_ARRIVED binds them by a chain over their hashes (cells/moves/marks.py). If the chain differs or is missing, this
cell asks the cell that has the events. That cell answers with rows of its log, which it checks against its signed tree.
"""

import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

from cells.audit.checks.checked import ROW_COLUMNS, Checked, checked_records
from cells.audit.history.trace import Answer, Search, Silent
from cells.audit.reconcile.findings import Check, Finding, Progress, Tell, finding
from cells.domain.refusals import FieldInvalid
from cells.encoding import codec
from cells.moves.marks import Mark, link, mark_of
from cells.sql import queries
from cells.store.ports import EventRow
from cells.store.postgres import PostgresStore

SQL = queries("cells.sql", "moves.sql")
_finding = partial(finding, Check.COPY)
USERS = 100
# Events per request to the other cell. Comparing them takes the leader some milliseconds.
PAGE = 64


@dataclass(slots=True)
class Proven:
    findings: list[Finding] = field(default_factory=list)
    # The number of copies that match the other cell's events.
    proven: int = 0
    # Cell -> why it does not answer, and how many of its copies are not proven.
    silent: dict[str, str] = field(default_factory=dict)
    unproven: Counter[str] = field(default_factory=Counter)

    @property
    def missing(self) -> dict[str, str]:
        """Cell -> why its copies are not proven."""
        return {
            cell: f"{count} copies of its events are not proven: {self.silent[cell]}"
            for cell, count in self.unproven.items()
        }


@dataclass(slots=True)
class _Bound:
    """The copies from one earlier home, as one user's arrivals bind them."""

    # The number of the account's first events there that must be here.
    events: int = 0
    # The chain over them, in hexadecimal; empty for an arrival older than chains.
    chain: str = ""
    # The arrival made events for the marks of this many of them: these rows need no mark.
    carried: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    cell: str
    store: PostgresStore
    # Searches another cell. Raises Silent.
    find: Callable[[str, Search, int], Awaitable[Answer]]

    async def compare(self, after: int, until: int, tell: Tell = lambda _: None) -> Proven:
        """Compares the copies of users who arrived between two positions of this log. Names silent cells."""
        found, users = Proven(), 0
        async for user_id, homes in self._arrived(after, until):
            for cell, bound in sorted(homes.items()):
                await self._compare(user_id, cell, bound, found)
            users += 1
            tell(Progress(stage="copies", done=users, total=users))
        return found

    async def _arrived(self, after: int, until: int) -> AsyncIterator[tuple[UUID, dict[str, _Bound]]]:
        last = UUID(int=0)
        while True:
            async with self.store.reading() as connection:
                users = [row[0] for row in await connection.fetch(SQL["arrived"], after, until, last, USERS)]
                user_import = await connection.fetch(SQL["arrivals_of"], users, until)
            bounds: dict[UUID, dict[str, _Bound]] = {user_id: {} for user_id in users}
            for user_id, homes, history in user_import:
                self._bind(bounds[user_id], json.loads(homes), json.loads(history))
            for each in bounds.items():
                yield each
            if len(users) < USERS:
                return
            last = users[-1]

    def _bind(self, bounds: dict[str, _Bound], homes: Sequence[dict[str, Any]], history: dict[str, str]) -> None:
        """Adds one arrival; arrivals come in the order of the log."""
        for home in homes:
            cell, events = home["cell"], home["events"]
            bound = bounds.setdefault(cell, _Bound()) if cell != self.cell else _Bound()
            if events >= bound.events:
                bound.events, bound.chain = events, history.get(cell, "")
            if cell not in history:
                bound.carried = max(bound.carried, events)

    async def _compare(self, user_id: UUID, cell: str, bound: _Bound, found: Proven) -> None:
        """Each bound event must be here, equal to the original, and with the mark that follows from it."""
        version, chain, findings = 0, b"", found.findings
        async for copies, marks in self._pages(user_id, cell, bound.events):
            for (row, problem, _), mark in zip(copies, marks, strict=True):
                self._missing(user_id, cell, range(version + 1, row.stream_version), found)
                version, named = row.stream_version, _named(row, cell)
                if problem:
                    findings.append(_finding(named, "the event that was written there", problem))
                    continue
                chain = link(chain, codec.leaf_hash(row))
                if mark != (right := _mark_of(row)) and (mark.kind or version > bound.carried):
                    findings.append(_finding(f"{named}, mark", str(right), str(mark)))
        self._missing(user_id, cell, range(version + 1, bound.events + 1), found)
        if bound.chain and chain.hex() == bound.chain:
            found.proven += bound.events
            return
        if bound.chain:
            expected = f"copies with the chain that the arrival says, {bound.chain}"
            findings.append(_finding(f"moved_events ({user_id}, {cell})", expected, chain.hex()))
        async for copies, _ in self._pages(user_id, cell, bound.events):
            await self._compare_page([each for each in copies if not each.problem], cell, found)

    async def _pages(self, user_id: UUID, cell: str, events: int) -> AsyncIterator[tuple[list[Checked], list[Mark]]]:
        """The bound copies, in order; any others are staged for a move under way."""
        version, more = 0, True
        while more:
            async with self.store.reading() as connection:
                rows = await connection.fetch(SQL["counted_copies"], user_id, cell, version, events, PAGE)
            if rows:
                version = rows[-1]["stream_version"]
                yield await checked_records([row[:ROW_COLUMNS] for row in rows]), [Mark(*row[-2:]) for row in rows]
            more = len(rows) == PAGE

    @staticmethod
    def _missing(user_id: UUID, cell: str, versions: range, found: Proven) -> None:
        if versions:
            row = f"moved_events ({user_id}, {cell}), events {versions[0]} to {versions[-1]} of the account"
            found.findings.append(_finding(row, "the copies that came with the user", "no rows"))

    async def _compare_page(self, copies: Sequence[Checked], cell: str, found: Proven) -> None:
        theirs = await self._theirs([row.event_id for row, *_ in copies], cell, found)
        for row, *_ in copies:
            named = _named(row, cell)
            if theirs is None:
                found.unproven[cell] += 1
            elif (other := theirs.get(row.event_id)) is None:
                expected = f"an event of the log of {cell}, where {row.event_id} is none"
                found.findings.append(_finding(named, expected, codec.leaf_bytes(row).decode()))
            elif codec.leaf_bytes(row) != codec.leaf_bytes(other.row):
                expected = f"as in the log of {cell}: {codec.leaf_bytes(other.row).decode()}"
                found.findings.append(_finding(named, expected, codec.leaf_bytes(row).decode()))
            elif other.problem:
                # Both may have been changed alike: the other cell does not vouch for its row.
                found.findings.append(_finding(named, f"a row that {cell} answers for", other.problem))
            else:
                found.proven += 1

    async def _theirs(self, ids: Sequence[UUID], cell: str, found: Proven) -> dict[UUID, Checked] | None:
        """The events as the other cell has them; None if it does not answer. A silent cell is not asked again."""
        if cell in found.silent:
            return None
        try:
            rows = await self._asked(ids, cell)
            # The answer may contain other events in place of the last ones wanted.
            for event_id in set(ids) - rows.keys():
                rows |= await self._asked([event_id], cell)
        except Silent as error:
            found.silent[cell] = str(error)
            return None
        return rows

    async def _asked(self, ids: Sequence[UUID], cell: str) -> dict[UUID, Checked]:
        answer = await self.find(cell, Search(causes=frozenset(ids)), len(ids)) if ids else Answer([])
        wanted = set(ids)
        return {
            each.row.event_id: Checked(each.row, each.problem) for each in answer.found if each.row.event_id in wanted
        }


def _mark_of(row: EventRow) -> Mark | str:
    try:
        return mark_of(row)
    except FieldInvalid as error:
        return error.message


def _named(row: EventRow, cell: str) -> str:
    return f"moved_events ({row.aggregate_id}, {cell}, {row.position})"
