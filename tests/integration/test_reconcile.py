"""A cell's tables against a replay of its log: whatever a superuser changes behind its back is found, and named."""

from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from cells.audit.findings import Check, Report
from cells.audit.reconcile import Reconciler
from server.shell.database import connect
from tests.integration.database import CELL_ROLE, ask
from tests.integration.played import HERE, THERE, Played, superuser
from tests.invariants import check_all

NOBODY = "00000000-0000-7000-8000-000000000000"


async def reconciled(dsn: str, *, full: bool = True, events_per_s: int = 0) -> Report:
    connection = await connect(dsn, role=CELL_ROLE, application="test/reconcile")
    try:
        return await Reconciler(connection=connection, full=full, events_per_s=events_per_s).run()
    finally:
        await connection.close()


async def corrupted(dsn: str, *statements: str) -> list[Any]:
    """Executes them as a superuser; the rows of the last one."""
    async with superuser(dsn) as connection:
        for statement in statements[:-1]:
            await connection.execute(statement)
        return [tuple(row) for row in await connection.fetch(statements[-1])]


def checks(report: Report) -> set[Check]:
    return {finding.check for finding in report.findings}


def about(report: Report, check: Check) -> Sequence[str]:
    return [f"{each.row}: {each.expected} / {each.found}" for each in report.findings if each.check is check]


async def test_the_books_of_a_played_market_are_right(played: Played) -> None:
    """By the pass and by the invariants alike; then there is nothing more to replay."""
    await check_all(played.dsns)
    for cell, dsn in played.dsns.items():
        report = await reconciled(dsn)
        assert report.findings == ()
        assert (report.cell, report.full, report.from_position) == (cell, True, 0)
        assert report.position == (await ask(dsn, "SELECT position FROM head"))[0][0] > 50
        again = await reconciled(dsn, full=False)
        assert (again.full, again.events_count, again.findings_count) == (False, 0, 0)


# Statement, what it is found by, and what its row must name.
CHANGES: list[tuple[str, Check, str]] = [
    (
        "UPDATE accounts SET state = jsonb_set(state, '{balances,USD,available_minor}', '\"1\"') "
        "WHERE id = (SELECT id FROM accounts ORDER BY id LIMIT 1) RETURNING id",
        Check.PROJECTION,
        "accounts {}",
    ),
    (
        "UPDATE accounts SET stream_version = stream_version - 1 "
        "WHERE id = (SELECT id FROM accounts ORDER BY id LIMIT 1) RETURNING id",
        Check.PROJECTION,
        "accounts {}",
    ),
    ("DELETE FROM assets WHERE id = (SELECT min(id::text)::uuid FROM assets) RETURNING id", Check.PROJECTION, "assets {}"),
    (
        "UPDATE auctions SET state = state - 'currency' WHERE id = (SELECT min(id::text)::uuid FROM auctions) "
        "RETURNING id",
        Check.PROJECTION,
        "auctions {}",
    ),
    (
        "UPDATE sagas SET state = jsonb_set(state, '{state}', '\"RUNNING\"') "
        "WHERE id = (SELECT min(id::text)::uuid FROM sagas) RETURNING id",
        Check.PROJECTION,
        "sagas {}",
    ),
    (
        f"INSERT INTO assets (id, stream_version, state) SELECT '{NOBODY}', stream_version, state FROM assets LIMIT 1 "
        "RETURNING id",
        Check.PROJECTION,
        "assets {}",
    ),
    (
        "UPDATE house_balances SET balance_minor = balance_minor + 1 WHERE account = 'fees' RETURNING account",
        Check.HOUSE,
        "house_balances {} USD",
    ),
    (
        "INSERT INTO house_balances VALUES ('transit', 'EUR', 5) RETURNING account",
        Check.HOUSE,
        "house_balances {} EUR",
    ),
    (
        "UPDATE account_entries SET available_after = available_after + 1 "
        "WHERE position = (SELECT min(position) FROM account_entries) RETURNING position",
        Check.ACCOUNT_ENTRY,
        "{})",
    ),
    (
        "DELETE FROM account_entries WHERE position = (SELECT max(position) FROM account_entries) RETURNING position",
        Check.ACCOUNT_ENTRY,
        "{})",
    ),
    (
        "INSERT INTO account_entries SELECT account_id, 'EUR', position, 0, 0, 0, 0, 0, 0 FROM account_entries "
        "ORDER BY position LIMIT 1 RETURNING position",
        Check.ACCOUNT_ENTRY,
        "EUR, {})",
    ),
    (
        "DELETE FROM clearing_entries WHERE position = (SELECT min(position) FROM clearing_entries) RETURNING clearing_id",
        Check.CLEARING_ENTRY,
        "clearing_entries ({}",
    ),
    (
        "UPDATE clearing_entries SET peer = 'mars' WHERE position = (SELECT min(position) FROM clearing_entries) "
        "RETURNING clearing_id",
        Check.CLEARING_ENTRY,
        "clearing_entries ({}",
    ),
    (
        "UPDATE saga_legs SET result = 'TOMBSTONED' WHERE position = (SELECT min(position) FROM saga_legs) "
        "RETURNING leg_id",
        Check.BARRIER,
        "saga_legs ({}",
    ),
    (
        "DELETE FROM external_references WHERE position = (SELECT min(position) FROM external_references) "
        "RETURNING reference_id",
        Check.REFERENCE,
        "external_references ({})",
    ),
    (
        f"INSERT INTO external_references VALUES ('{NOBODY}', 'deposit', 'never seen', 1) RETURNING reference_id",
        Check.REFERENCE,
        "external_references ({})",
    ),
    (
        "INSERT INTO saga_legs SELECT gen_random_uuid(), direction, result, event_id, 1000000 FROM saga_legs LIMIT 1 "
        "RETURNING 'saga_legs'",
        Check.BOOKS,
        "{} at position 1000000",
    ),
    (
        "DELETE FROM command_outcomes WHERE command_id = (SELECT (metadata->>'command_id')::uuid FROM event_store "
        "WHERE event_type = 'DEPOSITED' ORDER BY position LIMIT 1) RETURNING command_id",
        Check.OUTCOME,
        "command {}",
    ),
    (
        "UPDATE command_outcomes SET outcome = '{\"refused\": {\"reason\": \"BID_TOO_LOW\", \"facts\": {}}}' "
        "WHERE command_id = (SELECT (metadata->>'command_id')::uuid FROM event_store "
        "WHERE event_type = 'DEPOSITED' ORDER BY position LIMIT 1) RETURNING command_id",
        Check.OUTCOME,
        "command {}",
    ),
    (
        "UPDATE command_outcomes SET outcome = '{\"accepted\": {}}' WHERE command_id = "
        "(SELECT command_id FROM command_outcomes WHERE outcome->'refused'->>'reason' = 'NEVER' LIMIT 1) "
        "RETURNING command_id",
        Check.OUTCOME,
        "",
    ),
    (
        "INSERT INTO command_outcomes SELECT gen_random_uuid(), fingerprint, '{\"accepted\": {}}', position, "
        "hlc_physical, hlc_logical, recorded_at FROM command_outcomes WHERE outcome ? 'accepted' LIMIT 1 "
        "RETURNING command_id",
        Check.OUTCOME,
        "command {}",
    ),
    (
        "UPDATE command_outcomes SET outcome = '{\"in_progress\": {}}' WHERE command_id = (SELECT "
        "(state->'facts'->>'command_id')::uuid FROM sagas WHERE state->'facts' ? 'command_id' "
        "ORDER BY id LIMIT 1) RETURNING command_id",
        Check.OUTCOME,
        "command {}",
    ),
    (
        "UPDATE event_store SET payload = jsonb_set(payload, '{postings,0,amount_minor}', '\"1\"') "
        "WHERE event_type = 'DEPOSITED' RETURNING position",
        Check.POSTINGS,
        "position {}",
    ),
]


@pytest.mark.parametrize(("statement", "check", "row"), [each for each in CHANGES if "NEVER" not in each[0]])
async def test_a_change_is_found_and_named(played: Played, statement: str, check: Check, row: str) -> None:
    """In each table, of each kind: a changed row, a missing one, one too many."""
    dsn = played.dsns[HERE]
    [(key,), *_] = await corrupted(dsn, statement)
    report = await reconciled(dsn)
    named = about(report, check)
    assert any(row.format(key) in each for each in named), [*named, report.findings]
    assert report.findings_count == len(report.findings)
    assert not (checks(report) - {check, Check.BOOKS}), report.findings
