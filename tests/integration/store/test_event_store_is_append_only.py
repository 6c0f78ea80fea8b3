"""What has happened is never changed: not by a mistake, not by the cell, not by a way round the triggers."""

from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from cells.store.ports import ClearingEntryRow, LegRow, ReferenceRow
from server.shell.postgres.database import Connection
from tests.integration.database import ask, connected, opened
from tests.integration.rows import account, batch_on, entry_row, event_row, outcome_row, projection_row

APPEND_ONLY = ("event_store", "account_entries", "clearing_entries", "saga_legs", "external_references")
CHANGES = (
    "UPDATE {table} SET position = position + 1",
    "UPDATE {table} SET position = position WHERE false",
    "DELETE FROM {table}",
    "TRUNCATE {table}",
    "TRUNCATE {table} CASCADE",
    "INSERT INTO {table} SELECT * FROM {table} ON CONFLICT (position) DO UPDATE SET position = 0",
    "MERGE INTO {table} t USING {table} s ON t.position = s.position WHEN MATCHED THEN DELETE",
)
# What nobody but the owner may do, and the cell and the auditor never.
SCHEMA_CHANGES = (
    "ALTER TABLE event_store DISABLE TRIGGER append_only",
    "DROP TRIGGER append_only ON event_store",
    "ALTER TABLE event_store DROP COLUMN leaf_hash",
    "DROP TABLE event_store",
    "CREATE TABLE event_store_2 (position BIGINT)",
    "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    "SET session_replication_role = replica",
    "DELETE FROM command_outcomes",
    "UPDATE command_outcomes SET fingerprint = ''",
    "UPDATE head SET cell = 'eu-west'",
    "DELETE FROM head",
    "DELETE FROM accounts",
    "TRUNCATE accounts",
    "UPDATE schema_migrations SET checksum = ''",
)


@pytest.fixture
async def written(cell_dsn: str) -> str:
    """A database with a row in every append-only table."""
    async with opened(cell_dsn) as store:
        await store.append(
            batch_on(
                await store.claim(),
                event_row(1),
                account_entries=[entry_row(1)],
                clearing_entries=[ClearingEntryRow(uuid4(), 1, "eu-west", "USD", 5)],
                legs=[LegRow(uuid4(), "action", "APPLIED", uuid4(), 1)],
                references=[ReferenceRow(uuid4(), "deposit", "r", 1)],
                outcomes=[outcome_row()],
                projections=[projection_row(account())],
            )
        )
    return cell_dsn


@pytest.fixture
async def superuser(written: str) -> AsyncIterator[Connection]:
    async with connected(written) as connection:
        yield connection


def changes(table: str) -> list[str]:
    """Every change that the table's keys allow to be written."""
    unique = "position" if table == "event_store" else None
    return [each.format(table=table) for each in CHANGES if unique or "ON CONFLICT" not in each]


@pytest.mark.parametrize("table", APPEND_ONLY)
@pytest.mark.parametrize("role", ["cellbook_owner", "postgres"])
@pytest.mark.parametrize("replication_role", ["origin", "replica"])
async def test_a_change_raises(superuser: Connection, table: str, role: str, replication_role: str) -> None:
    """Loudly, also for the owner and a superuser, also where triggers are off for a replica."""
    before = await superuser.fetch(f"SELECT * FROM {table}")  # noqa: S608
    await superuser.execute(f"SET session_replication_role = {replication_role}")
    await superuser.execute(f"SET ROLE {role}")
    for change in changes(table):
        with pytest.raises(asyncpg.RestrictViolationError, match="what has happened stays"):
            await superuser.execute(change)
    assert await superuser.fetch(f"SELECT * FROM {table}") == before != []  # noqa: S608


@pytest.mark.parametrize("table", APPEND_ONLY)
async def test_a_trigger_that_is_not_always_on_would_be_gone_round(superuser: Connection, table: str) -> None:
    """Ablation: enabled the usual way, a session that plays the replica changes what it likes."""
    await superuser.execute(f"ALTER TABLE {table} ENABLE TRIGGER append_only")
    with pytest.raises(asyncpg.RestrictViolationError):
        await superuser.execute(f"DELETE FROM {table}")  # noqa: S608
    await superuser.execute("SET session_replication_role = replica")
    assert await superuser.execute(f"DELETE FROM {table}") == "DELETE 1"  # noqa: S608


@pytest.mark.parametrize("role", ["cellbook_cell", "cellbook_auditor"])
async def test_neither_cell_nor_auditor_may_change_what_is_there(superuser: Connection, role: str) -> None:
    """They lack the privilege, before any trigger is asked."""
    await superuser.execute(f"SET ROLE {role}")
    for change in (*(each for table in APPEND_ONLY for each in changes(table)), *SCHEMA_CHANGES):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await superuser.execute(change)


async def test_with_more_privileges_the_cell_could_change_its_head(superuser: Connection) -> None:
    """Ablation: what the cell may not do is held by privileges alone where there is no trigger."""
    await superuser.execute("GRANT UPDATE ON head, command_outcomes TO cellbook_cell")
    await superuser.execute("SET ROLE cellbook_cell")
    assert await superuser.execute("UPDATE head SET cell = 'eu-west'") == "UPDATE 1"
    assert await superuser.execute("UPDATE command_outcomes SET fingerprint = ''") == "UPDATE 1"


# No event, and nobody's business but the cell's.
PERSONAL = {"confirmations", "contacts", "erasures", "erasures_elsewhere", "outbox"}


async def test_the_auditor_reads_and_does_nothing_else(superuser: Connection) -> None:
    """Every table and view but those of people, and no row of theirs gets in."""
    relations = await superuser.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v') "
        "AND NOT relispartition"
    )
    assert {"event_store", "balances", "postings", "command_outcomes"} <= {row["relname"] for row in relations}
    await superuser.execute("SET ROLE cellbook_auditor")
    for name in {row["relname"] for row in relations} - PERSONAL:
        await superuser.fetch(f"TABLE {name}")
    for name in PERSONAL:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await superuser.fetch(f"TABLE {name}")
    for table in (*APPEND_ONLY, "accounts", "command_outcomes", "head"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await superuser.execute(f"INSERT INTO {table} DEFAULT VALUES")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await superuser.execute("SELECT keep_outcome_partitions(now())")


async def test_tables_belong_to_the_owner(written: str) -> None:
    """Whoever migrates, no login role owns what it could then change."""
    owners = await ask(
        written,
        "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class "
        "WHERE relnamespace = 'public'::regnamespace UNION "
        "SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
    )
    assert owners == [("cellbook_owner",)]
