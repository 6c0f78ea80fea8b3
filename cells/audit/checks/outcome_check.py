"""Compares stored outcomes of commands with their events and with their seals."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, TypeAlias

from cells.audit.reconcile.findings import Check, Finding, shown
from cells.domain.record import Struct
from cells.domain.time.window import WINDOW_DAYS
from cells.encoding import codec
from cells.encoding.outcome_seal import OutcomeSeal
from cells.sql import queries

if TYPE_CHECKING:
    import asyncpg

# Quoted: generic for the type checker only.
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

SQL = queries("cells.sql", "reconcile.sql")
# How long outcomes are kept.
OUTCOMES_DAYS = WINDOW_DAYS
FINDINGS_MAX = 1_000
PAGE = 5_000
SEALED = "the answer that was stored with the seal beside it"


class OutcomeCheck(Struct, frozen=True, kw_only=True):
    """Run it in a snapshot transaction. `began`: an earlier pass compared the outcomes up to there."""

    connection: Connection
    began: int
    position: int
    # Empty: outcomes are not sealed.
    key: bytes

    async def findings(self) -> AsyncIterator[Finding]:
        async for finding in self._by_events():
            yield finding
        if self.key:
            async for finding in self._by_seals():
                yield finding

    async def _by_events(self) -> AsyncIterator[Finding]:
        fetch = self.connection.fetch
        for row in await fetch(SQL["events_without_outcome"], self.began, self.position, OUTCOMES_DAYS, FINDINGS_MAX):
            found = "no outcome" if row["outcome"] is None else row["outcome"]
            named = f"command {row['command_id']}: {row['event_type']} at position {row['position']}"
            yield _finding(named, "that it was accepted", found)
        for row in await fetch(SQL["outcomes_without_event"], self.began, self.position, FINDINGS_MAX):
            found = f"{row['outcome']}, and no such event"
            yield _finding(f"command {row['command_id']}", f"its event at position {row['position']}", found)
        if self.began == 0:
            for row in await fetch(SQL["flows_without_end"], FINDINGS_MAX):
                expected = f"how it ended: saga {row['saga_id']} is {row['status']}"
                yield _finding(f"command {row['command_id']}", expected, row["outcome"])

    async def _by_seals(self) -> AsyncIterator[Finding]:
        seal = OutcomeSeal(self.key)
        cursor = await self.connection.cursor(SQL["sealed_outcomes"], self.began)
        while rows := await cursor.fetch(PAGE):
            for command_id, principal, outcome, position, physical, logical, found, old in rows:
                if found is None and old:
                    continue
                try:
                    expected = seal.of(command_id, codec.recanonical(outcome), position, physical, logical)
                except (ValueError, TypeError):
                    expected = b""
                if found != expected:
                    said = f"{outcome} at position {position}{'' if found else ', without a seal'}"
                    yield _finding(f"command {command_id} of {principal}", SEALED, said)


def _finding(row: str, expected: str, found: str) -> Finding:
    return Finding(check=Check.OUTCOME, row=shown(row), expected=shown(expected), found=shown(found))
