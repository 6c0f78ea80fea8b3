"""Three roles: who migrates, the cell, the auditor. Each is logged in for real, and tries what it must not."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import uuid4

import asyncpg
import pytest

from server.process.cell import open_store
from server.shell.postgres.database import Connection, migrate
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.database import CELL, TIMEOUT_S, ask
from tests.integration.rows import account, batch_on, event_row, projection_row
from tests.integration.store.test_event_store_is_append_only import APPEND_ONLY, PERSONAL, SCHEMA_CHANGES, changes

# Ways round one's own role.
ESCAPES = (
    "SET ROLE postgres",
    "SET ROLE cellbook_owner",
    "SET LOCAL ROLE cellbook_owner",
    "SET SESSION AUTHORIZATION postgres",
    "SET SESSION AUTHORIZATION cellbook_owner",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "ALTER ROLE cellbook_cell SUPERUSER",
    "GRANT cellbook_owner TO CURRENT_USER",
    "CREATE ROLE another SUPERUSER LOGIN",
    "ALTER TABLE event_store OWNER TO CURRENT_USER",
    "ALTER TABLE event_store DISABLE TRIGGER ALL",
    "ALTER TABLE event_store ENABLE REPLICA TRIGGER append_only",
    "CREATE TRIGGER mine BEFORE INSERT ON event_store FOR EACH ROW EXECUTE FUNCTION refuse_change()",
    "CREATE RULE mine AS ON INSERT TO event_store DO INSTEAD NOTHING",
    "CREATE POLICY mine ON event_store USING (false)",
    "ALTER SYSTEM SET fsync = off",
    "SET session_replication_role = replica",
    "COPY event_store FROM PROGRAM 'true'",
    "COPY (SELECT 1) TO '/tmp/cellbook-escape'",
    "SELECT pg_read_file('PG_VERSION')",
    "SELECT lo_import('/etc/passwd')",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
    "CREATE SCHEMA mine",
    "REINDEX TABLE event_store",
    "CLUSTER event_store USING event_store_pkey",
    "DO $$ BEGIN LOCK TABLE event_store IN ACCESS EXCLUSIVE MODE; END $$",
    "SELECT * FROM event_store FOR UPDATE",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Logins:
    """DSNs of logins that are members of one role each, and of none other."""

    migrating: str
    cell: str
    auditor: str


@pytest.fixture
async def logins(cluster: EmbeddedPostgres, template: str) -> AsyncIterator[Logins]:
    """A database of its own, migrated by a login that is no superuser."""
    name = f"roles_{uuid4().hex[:12]}"
    names = {role: f"{name}_{role}" for role in ("owner", "cell", "auditor")}
    root = cluster.dsn("postgres")
    await ask(root, f"CREATE ROLE {names['owner']} LOGIN")
    await ask(root, f"GRANT cellbook_owner, cellbook_cell, cellbook_auditor TO {names['owner']}")
    await ask(root, f"CREATE DATABASE {name} OWNER {names['owner']}")
    for role in ("cell", "auditor"):
        await ask(root, f"CREATE ROLE {names[role]} LOGIN IN ROLE cellbook_{role}")
    dsns = {role: cluster.dsn(name).replace("://postgres@", f"://{login}@") for role, login in names.items()}
    yield Logins(migrating=dsns["owner"], cell=dsns["cell"], auditor=dsns["auditor"])
    await ask(root, f"DROP DATABASE {name} WITH (FORCE)")
    for login in names.values():
        await ask(root, f"DROP ROLE {login}")


async def logged_in(dsn: str) -> Connection:
    return await asyncpg.connect(dsn, timeout=TIMEOUT_S, command_timeout=TIMEOUT_S)


async def test_a_cell_works_with_no_more_than_its_role(logins: Logins) -> None:
    """Migrated by the one, it leads, writes, is taken over from and reads by the other."""
    for epoch in (1, 2):
        store = await open_store(CELL, logins.cell, migrate_dsn=logins.migrating)
        try:
            head = await store.claim()
            assert head.epoch == epoch
            position = head.position + 1
            await store.append(batch_on(head, event_row(position), projections=[projection_row(account())]))
            assert (await store.head()).position == position
        finally:
            await store.close()


@pytest.mark.parametrize("role", ["cell", "auditor"])
async def test_neither_gets_out_of_its_role(logins: Logins, role: str) -> None:
    """As the login itself, whatever it resets and sets: nothing is changed or switched off."""
    store = await open_store(CELL, logins.cell, migrate_dsn=logins.migrating)
    await store.append(batch_on(await store.claim(), event_row(1), projections=[projection_row(account())]))
    await store.close()
    connection = await logged_in(logins.cell if role == "cell" else logins.auditor)
    try:
        before = await connection.fetch("TABLE event_store")
        for reset in ("RESET ROLE", f"SET ROLE cellbook_{role}", "SET ROLE NONE", "RESET SESSION AUTHORIZATION"):
            await connection.execute(reset)
            tried = (*ESCAPES, *SCHEMA_CHANGES, *(each for table in APPEND_ONLY for each in changes(table)))
            for statement in tried:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)
        assert await connection.fetch("TABLE event_store") == before != []
    finally:
        await connection.close(timeout=TIMEOUT_S)


async def test_the_auditor_sees_no_person_and_writes_nothing(logins: Logins) -> None:
    """It reads all that is an event or follows from one, and that is all."""
    await migrate(logins.migrating, "cells.sql")
    connection = await logged_in(logins.auditor)
    try:
        tables = await connection.fetch(
            "SELECT quote_ident(relname) AS name, relkind FROM pg_class WHERE relnamespace = 'public'::regnamespace "
            "AND relkind IN ('r', 'p', 'v') AND NOT relispartition"
        )
        names = {row["name"] for row in tables}
        assert {*APPEND_ONLY, *PERSONAL} <= names
        for name in names - PERSONAL:
            await connection.fetch(f"TABLE {name}")
        for name in PERSONAL:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetch(f"TABLE {name}")
        for name in {row["name"] for row in tables if row["relkind"] != b"v"}:
            for statement in (f"INSERT INTO {name} DEFAULT VALUES", f"DELETE FROM {name}", f"TRUNCATE {name}"):  # noqa: S608
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)
    finally:
        await connection.close(timeout=TIMEOUT_S)


async def test_without_a_login_of_its_own_a_cell_could_get_out(cell_dsn: str) -> None:
    """Ablation: a superuser that has put on the cell's role takes it off again. Hence `migrate_dsn`."""
    connection = await asyncpg.connect(cell_dsn, server_settings={"role": "cellbook_cell"}, timeout=TIMEOUT_S)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("ALTER TABLE event_store DISABLE TRIGGER append_only")
        await connection.execute("RESET ROLE")
        await connection.execute("SET ROLE NONE")
        await connection.execute("ALTER TABLE event_store DISABLE TRIGGER append_only")
    finally:
        await connection.close(timeout=TIMEOUT_S)
