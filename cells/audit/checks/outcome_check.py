"""Compares stored outcomes of commands with their events and with their seals."""

from collections.abc import AsyncIterator
from functools import partial

from cells.audit.reconcile.findings import Check, Finding, finding
from cells.domain.time.window import WINDOW_DAYS
from cells.encoding import codec
from cells.encoding.outcome_seal import OutcomeSeal
from cells.sql import queries
from cells.store.sessions import Connection

SQL = queries("cells.sql", "reconcile.sql")
_finding = partial(finding, Check.OUTCOME)
# How long outcomes are kept.
OUTCOMES_DAYS = WINDOW_DAYS
FINDINGS_MAX = 1_000
PAGE = 5_000
SEALED = "the answer that was stored with the seal beside it"


async def outcome_findings(connection: Connection, began: int, position: int, key: bytes) -> AsyncIterator[Finding]:
    """Call it in a snapshot transaction. An earlier pass compared the outcomes up to `began`. No key: no seals."""
    for row in await connection.fetch(SQL["events_without_outcome"], began, position, OUTCOMES_DAYS, FINDINGS_MAX):
        named = f"command {row['command_id']}: {row['event_type']} at position {row['position']}"
        yield _finding(named, "that it was accepted", row["outcome"] or "no outcome")
    for row in await connection.fetch(SQL["outcomes_without_event"], began, position, FINDINGS_MAX):
        found = f"{row['outcome']}, and no such event"
        yield _finding(f"command {row['command_id']}", f"its event at position {row['position']}", found)
    if began == 0:
        for row in await connection.fetch(SQL["flows_without_end"], FINDINGS_MAX):
            expected = f"how it ended: saga {row['saga_id']} is {row['status']}"
            yield _finding(f"command {row['command_id']}", expected, row["outcome"])
    if key:
        async for wrong in _by_seals(connection, began, OutcomeSeal(key)):
            yield wrong


async def _by_seals(connection: Connection, began: int, seal: OutcomeSeal) -> AsyncIterator[Finding]:
    cursor = await connection.cursor(SQL["sealed_outcomes"], began)
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
