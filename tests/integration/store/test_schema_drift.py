"""A store whose tables, triggers, functions or rights are not what the migrations make is named, item by item."""

import re

import pytest

from cells.audit.checks.schema_check import Schema, schema_findings, shipped_schema
from cells.audit.reconcile.findings import Check
from server.cli.doctor.database import examine
from server.cli.doctor.findings import State
from tests.integration.books.test_reconcile import reconciled
from tests.integration.database import CELL, ask
from tests.schema import PATH, listed, text_of

# What a superuser does, and the item that it is named by.
DRIFT = (
    ("ALTER TABLE event_store DISABLE TRIGGER append_only", "trigger append_only on event_store"),
    ("ALTER TABLE event_store ENABLE TRIGGER append_only", "trigger append_only on event_store"),
    ("DROP TRIGGER counted_stays ON moved_events", "trigger counted_stays on moved_events"),
    (
        "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "function refuse_change()",
    ),
    ("CREATE FUNCTION more() RETURNS int LANGUAGE sql AS 'SELECT 1'", "function more()"),
    ("GRANT UPDATE (payload) ON event_store TO cellbook_cell", "grant UPDATE on event_store.payload to cellbook_cell"),
    ("GRANT DELETE ON account_entries TO PUBLIC", "grant DELETE on account_entries to PUBLIC"),
    ("REVOKE SELECT ON event_store FROM cellbook_auditor", "grant SELECT on event_store to cellbook_auditor"),
    ("ALTER TABLE accounts DROP CONSTRAINT accounts_no_bucket_below_zero", "constraint accounts_no_bucket_below_zero"),
    ("ALTER TABLE saga_legs DROP CONSTRAINT saga_legs_pkey", "constraint saga_legs_pkey on saga_legs"),
    (
        """CREATE OR REPLACE VIEW balances AS SELECT id AS account_id, '' AS currency, 0::bigint AS available_minor,
        0::bigint AS reserved_minor, 0::bigint AS pending_minor FROM accounts""",
        "view balances",
    ),
    ("ALTER TABLE event_store ENABLE ROW LEVEL SECURITY", "table event_store"),
    ("CREATE POLICY blind ON event_store USING (position <> 7)", "row policy blind on event_store"),
    ("CREATE RULE lost AS ON INSERT TO command_outcomes DO INSTEAD NOTHING", "rule lost on command_outcomes"),
    ("DROP INDEX event_store_causation", "index event_store_causation on event_store"),
    ("CREATE UNIQUE INDEX more ON event_store (event_type)", "index more on event_store"),
    ("CREATE INDEX more ON event_store (lower(event_type))", "index more on event_store"),
    ("ALTER TABLE head ALTER COLUMN epoch SET DEFAULT 7", "column head.epoch"),
    ("CREATE SCHEMA aside;; CREATE TABLE aside.more () INHERITS (event_store)", "child aside.more of event_store"),
    ("ALTER TABLE event_store OWNER TO cellbook_cell", "table event_store"),
    (
        """DO $$ BEGIN
        EXECUTE format('ALTER DATABASE %I SET session_replication_role = replica', current_database()); END $$""",
        "setting session_replication_role of all roles in this database",
    ),
)


@pytest.mark.parametrize(("change", "item"), DRIFT, ids=[re.sub(r"\W+", "-", change)[:40] for change, _ in DRIFT])
async def test_a_change_of_the_schema_is_named(cell_dsn: str, change: str, item: str) -> None:
    """By a pass, and by the doctor."""
    for statement in change.split(";; "):
        await ask(cell_dsn, statement)
    findings = schema_findings(await listed(cell_dsn))
    assert any(each.row.startswith(item) and each.expected != each.found for each in findings), findings
    told = [each for each in await examine(cell_dsn, where="database", cell=CELL) if each.check == "schema"]
    assert any(item in each.detail and each.state is State.FAIL for each in told), told


async def test_an_index_for_queries_is_the_operators_own_business(cell_dsn: str) -> None:
    """It refuses no row and calls no function; the next migration may even ask for it ahead of time."""
    await ask(cell_dsn, 'CREATE INDEX more ON event_store (event_type, "position")')
    assert schema_findings(await listed(cell_dsn)) == []


async def test_a_pass_names_it(cell_dsn: str) -> None:
    """Among its findings, from the process that leads as from any other."""
    await ask(cell_dsn, "INSERT INTO head (cell) VALUES ('us-east')")
    assert (await reconciled(cell_dsn)).findings == []
    await ask(cell_dsn, "ALTER TABLE event_store DISABLE TRIGGER append_only")
    [finding] = (await reconciled(cell_dsn)).findings
    assert (finding.check, finding.row) == (Check.SCHEMA, "trigger append_only on event_store")
    assert "DISABLED" in finding.found
    assert "always" in finding.expected


async def test_the_listing_is_what_the_migrations_make(cell_dsn: str) -> None:
    """`python -m tests.schema` writes it."""
    assert text_of(await listed(cell_dsn)) == PATH.read_text(encoding="utf-8")


def test_a_migration_that_is_not_known_hinders_the_comparison_and_is_named() -> None:
    """Of a newer version or made up by somebody: in neither case is it said that nothing is wrong."""
    shipped = shipped_schema()
    for migrations in ((*shipped.migrations, "9999_more.sql"), shipped.migrations[:-1]):
        [finding] = schema_findings(Schema(migrations, shipped.items))
        assert "not compared" in finding.found
    assert schema_findings(shipped) == []
