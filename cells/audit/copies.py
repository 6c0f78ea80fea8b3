"""Copies of a user's events from earlier homes, held against the logs that they are copies of.

A copy whose bytes do not give its hash is found here. One that was changed together with its hash is found by the cell
that has the event: it answers only with rows of its own log, which its own passes hold against its signed tree.
"""

import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol
from uuid import UUID

from cells import codec
from cells.audit.checked import Checked, checked_records
from cells.audit.findings import Check, Finding, Progress, shown
from cells.audit.passes import Tell
from cells.audit.trace import Answer, Search, Silent
from cells.sql import queries
from cells.store import PostgresStore

SQL = queries("cells.sql", "moves.sql")
USERS = 100
# Of one question to the other cell. To compare them takes some milliseconds of the process that leads.
PAGE = 64


class CopyPeers(Protocol):
    async def find(self, cell: str, search: Search, limit: int) -> Answer:
        """Raises Silent."""


class Proven(NamedTuple):
    findings: Sequence[Finding]
    # Cell -> why its copies are not proven.
    missing: dict[str, str]
    # How many copies are as the other cell has them.
    proven: int


@dataclass(slots=True)
class _Found:
    findings: list[Finding] = field(default_factory=list)
    silent: dict[str, str] = field(default_factory=dict)
    unproven: Counter[str] = field(default_factory=Counter)
    proven: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    cell: str
    store: PostgresStore
    peers: CopyPeers

    async def compare(self, after: int, until: int, tell: Tell = lambda _: None) -> Proven:
        """Of users who arrived after one position of this log and up to another. A cell that is silent is named."""
        found, users = _Found(), 0
        async for user_id, homes in self._arrived(after, until):
            for cell, events in sorted(homes.items()):
                await self._compare(user_id, cell, events, found)
            users += 1
            tell(Progress(stage="copies", done=users, total=users))
        told = {
            cell: f"{count} copies of its events are not proven: {found.silent[cell]}"
            for cell, count in found.unproven.items()
        }
        return Proven(found.findings, told, found.proven)

    async def _arrived(self, after: int, until: int) -> AsyncIterator[tuple[UUID, dict[str, int]]]:
        """Each user with how many events of each earlier home must be here."""
        last = UUID(int=0)
        while True:
            async with self.store.reading() as connection:
                rows = await connection.fetch(SQL["arrived"], after, until, last, USERS)
            for user_id, earlier in rows:
                homes: dict[str, int] = {}
                for home in json.loads(earlier):
                    if home["cell"] != self.cell:
                        homes[home["cell"]] = max(homes.get(home["cell"], 0), home["events"])
                yield user_id, homes
                last = user_id
            if len(rows) < USERS:
                return

    async def _compare(self, user_id: UUID, cell: str, events: int, found: _Found) -> None:
        """The first `events` of the account's stream in that cell: each must be here, and be what it is there."""
        version, more = 0, True
        while more and version < events:
            async with self.store.reading() as connection:
                rows = await connection.fetch(SQL["moved_stream"], user_id, cell, version, PAGE)
            copies = [each for each in await checked_records([row[1:] for row in rows]) if _counts(each, events)]
            await self._compare_page(copies, cell, found)
            more = len(copies) == PAGE
            for each in copies:
                self._missing(user_id, cell, range(version + 1, each.row.stream_version), found)
                version = each.row.stream_version
        self._missing(user_id, cell, range(version + 1, events + 1), found)

    @staticmethod
    def _missing(user_id: UUID, cell: str, versions: range, found: _Found) -> None:
        if versions:
            row = f"moved_events ({user_id}, {cell}), events {versions[0]} to {versions[-1]} of the account"
            found.findings.append(_finding(row, "the copies that came with the user", "no rows"))

    async def _compare_page(self, copies: Sequence[Checked], cell: str, found: _Found) -> None:
        theirs = await self._theirs([row.event_id for row, _ in copies], cell, found)
        for row, problem in copies:
            named = f"moved_events ({row.aggregate_id}, {cell}, {row.position})"
            if problem:
                found.findings.append(_finding(named, "the event that was written there", problem))
            elif theirs is None:
                found.unproven[cell] += 1
            elif (other := theirs.get(row.event_id)) is None:
                expected = f"an event of the log of {cell}, where {row.event_id} is none"
                found.findings.append(_finding(named, expected, codec.leaf_bytes(row).decode()))
            elif codec.leaf_bytes(row) != codec.leaf_bytes(other.row):
                expected = f"as in the log of {cell}: {codec.leaf_bytes(other.row).decode()}"
                found.findings.append(_finding(named, expected, codec.leaf_bytes(row).decode()))
            elif other.problem:
                # Both may have been changed alike: the other cell does not answer for its row.
                found.findings.append(_finding(named, f"a row that {cell} answers for", other.problem))
            else:
                found.proven += 1

    async def _theirs(self, ids: Sequence[UUID], cell: str, found: _Found) -> dict[UUID, Checked] | None:
        """The events as the other cell has them; None: it does not say. It is asked no more once it is silent."""
        if cell in found.silent:
            return None
        try:
            rows = await self._asked(ids, cell)
            # Other events than the wanted ones come along, in place of the last ones.
            for event_id in set(ids) - rows.keys():
                rows |= await self._asked([event_id], cell)
        except Silent as error:
            found.silent[cell] = str(error)
            return None
        return rows

    async def _asked(self, ids: Sequence[UUID], cell: str) -> dict[UUID, Checked]:
        answer = await self.peers.find(cell, Search(causes=frozenset(ids)), len(ids)) if ids else Answer([])
        wanted = set(ids)
        return {
            each.row.event_id: Checked(each.row, each.problem) for each in answer.found if each.row.event_id in wanted
        }


def _counts(each: Checked, events: int) -> bool:
    """Whether it is one of the first `events`; what is beyond them is staged for a move under way."""
    return each.row.stream_version <= events


def _finding(row: str, expected: str, found: str) -> Finding:
    return Finding(check=Check.COPY, row=shown(row), expected=shown(expected), found=shown(found))
