"""Migrations: each applied once, all or nothing, by one process at a time, and never changed afterwards."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from cells.sql import queries
from server.shell.postgres import database
from server.shell.postgres.database import MigrationFailed, connect, migrate, migrations_of, open_pool
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.database import TIMEOUT_S, ask, connected

FIRST = "CREATE TABLE money (cents BIGINT NOT NULL); GRANT SELECT ON money TO cellbook_cell;"
SECOND = "ALTER TABLE money ADD COLUMN currency TEXT;"


@pytest.fixture
async def empty_dsn(cluster: EmbeddedPostgres) -> AsyncIterator[str]:
    name = f"empty_{uuid4().hex}"
    await cluster.ensure_database(name)
    yield cluster.dsn(name)
    await ask(cluster.dsn("postgres"), f'DROP DATABASE "{name}" WITH (FORCE)')


class Package:
    """A package that ships migrations, importable while the test runs."""

    def __init__(self, folder: Path) -> None:
        self.name = f"shipped_{uuid4().hex}"
        self._migrations = folder / self.name / "migrations"
        self._migrations.mkdir(parents=True)
        (folder / self.name / "__init__.py").touch()

    def ship(self, file: str, sql: str) -> None:
        (self._migrations / file).write_text(sql)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    monkeypatch.syspath_prepend(tmp_path)
    made = Package(tmp_path)
    yield made
    sys.modules.pop(made.name, None)


async def columns(dsn: str) -> list[str]:
    rows = await ask(dsn, "SELECT column_name::text FROM information_schema.columns WHERE table_name = 'money'")
    return [name for (name,) in rows]


async def test_each_migration_is_applied_once(empty_dsn: str, package: Package) -> None:
    """In order of their numbers; what is new comes on top; other files are none."""
    package.ship("0001_money.sql", FIRST)
    package.ship("notes.sql", "no SQL at all")
    assert await migrate(empty_dsn, package.name) == 1
    package.ship("0002_currency.sql", SECOND)
    assert [await migrate(empty_dsn, package.name) for _ in range(2)] == [1, 0]
    assert await columns(empty_dsn) == ["cents", "currency"]
    assert await ask(empty_dsn, "SELECT version, name FROM schema_migrations ORDER BY 1") == [
        (1, "0001_money.sql"),
        (2, "0002_currency.sql"),
    ]


async def test_processes_that_migrate_at_once_do_it_once(empty_dsn: str, package: Package) -> None:
    """One works, the others wait and find it done."""
    package.ship("0001_money.sql", FIRST + "SELECT pg_sleep(0.1);")
    assert sorted(await asyncio.gather(*(migrate(empty_dsn, package.name) for _ in range(5)))) == [0, 0, 0, 0, 1]


async def test_without_the_lock_they_would_collide(
    empty_dsn: str, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ablation: both find nothing applied, and one of them fails."""
    sql = queries("server.shell.postgres.sql", "migrate.sql")
    package.ship("0001_money.sql", FIRST + "SELECT pg_sleep(0.1);")
    await migrate(empty_dsn, package.name)
    await ask(empty_dsn, "DROP TABLE money")
    await ask(empty_dsn, "DELETE FROM schema_migrations")
    monkeypatch.setattr(database, "queries", lambda *_: {**sql, "lock": "SELECT"})
    answers = await asyncio.gather(*(migrate(empty_dsn, package.name) for _ in range(3)), return_exceptions=True)
    assert [answer for answer in answers if isinstance(answer, Exception)]


async def test_databases_of_a_new_cluster_make_its_roles_together(tmp_path: Path) -> None:
    """Three cells that start on one fresh server at once: roles are the cluster's, and made by whoever is first."""
    server = EmbeddedPostgres(tmp_path / "data")
    names = [f"cell_{number}" for number in range(4)]
    try:
        await server.start()
        for name in names:
            await server.ensure_database(name)
        assert await asyncio.gather(*(migrate(server.dsn(name), "cells.sql") for name in names)) == [
            len(migrations_of("cells.sql"))
        ] * len(names)
    finally:
        await server.stop("immediate")


async def test_a_migration_that_has_shipped_never_changes(empty_dsn: str, package: Package) -> None:
    """A database whose past is another one is not touched."""
    package.ship("0001_money.sql", FIRST)
    await migrate(empty_dsn, package.name)
    package.ship("0001_money.sql", FIRST + "-- edited")
    package.ship("0002_currency.sql", SECOND)
    with pytest.raises(MigrationFailed, match=r"0001_money\.sql was applied with another content"):
        await migrate(empty_dsn, package.name)
    assert await columns(empty_dsn) == ["cents"]


async def test_a_migration_that_fails_leaves_nothing(empty_dsn: str, package: Package) -> None:
    """Not even those before it; mended, all are applied."""
    package.ship("0001_money.sql", FIRST)
    package.ship("0002_currency.sql", "ALTER TABLE money ADD COLUMN currency NONSENSE;")
    with pytest.raises(MigrationFailed, match=r"0002_currency\.sql: type \"nonsense\" does not exist"):
        await migrate(empty_dsn, package.name)
    assert await columns(empty_dsn) == []
    package.ship("0002_currency.sql", SECOND)
    assert await migrate(empty_dsn, package.name) == 2


async def test_two_migrations_of_one_number_are_refused(empty_dsn: str, package: Package) -> None:
    """Two branches that were merged: which one comes first would be chance."""
    package.ship("0001_money.sql", FIRST)
    package.ship("0001_currency.sql", SECOND)
    with pytest.raises(MigrationFailed, match="same number"):
        await migrate(empty_dsn, package.name)


async def test_a_newer_database_is_left_alone(empty_dsn: str, package: Package) -> None:
    """The version before this one starts again in the middle of a rolling upgrade."""
    package.ship("0001_money.sql", FIRST)
    await migrate(empty_dsn, package.name)
    await ask(empty_dsn, "INSERT INTO schema_migrations VALUES (2, '0002_newer.sql', '')")
    assert await migrate(empty_dsn, package.name) == 0


async def test_the_wait_for_another_process_is_bounded(
    empty_dsn: str, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that hangs while it migrates does not hang the others for ever."""
    package.ship("0001_money.sql", FIRST)
    monkeypatch.setattr(database, "MIGRATION_WAIT_MAX_S", 1)
    async with connected(empty_dsn) as holder:
        await holder.execute("BEGIN")
        await holder.execute(queries("server.shell.postgres.sql", "migrate.sql")["lock"])
        with pytest.raises(MigrationFailed, match="waited 1 s"):
            await migrate(empty_dsn, package.name)


async def test_an_ordinary_login_may_migrate(cluster: EmbeddedPostgres, empty_dsn: str, package: Package) -> None:
    """Whoever owns the database and may make roles: no superuser is needed."""
    package.ship("0001_money.sql", FIRST)
    login, name = f"login_{uuid4().hex}", empty_dsn.split("?", 1)[0].rsplit("/", 1)[1]
    await ask(empty_dsn, f"CREATE ROLE {login} LOGIN CREATEROLE")
    await ask(empty_dsn, f"GRANT cellbook_owner, cellbook_cell, cellbook_auditor TO {login} WITH ADMIN OPTION")
    await ask(empty_dsn, f'ALTER DATABASE "{name}" OWNER TO {login}')
    try:
        assert await migrate(cluster.dsn(name, login), package.name) == 1
        connection = await connect(cluster.dsn(name, login), role="cellbook_cell", application="test")
        assert await connection.fetch("SELECT * FROM money") == []
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("DROP TABLE money")
        await connection.close(timeout=TIMEOUT_S)
    finally:
        await ask(empty_dsn, f'ALTER DATABASE "{name}" OWNER TO postgres')
        await ask(empty_dsn, f"REASSIGN OWNED BY {login} TO postgres")
        await ask(empty_dsn, f"DROP OWNED BY {login}")
        await ask(empty_dsn, f"DROP ROLE {login}")


async def test_connections_give_up_what_their_login_may(cell_dsn: str) -> None:
    """Alone or from a pool, also after the pool has lent them once."""
    pool = await open_pool(cell_dsn, role="cellbook_auditor", application="cellbook/test", size_max=1)
    try:
        for _ in range(2):
            async with pool.acquire(timeout=TIMEOUT_S) as connection:
                row = await connection.fetchrow("SELECT current_user, current_setting('application_name')")
                assert tuple(row or ()) == ("cellbook_auditor", "cellbook/test")
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute("DELETE FROM head")
    finally:
        await asyncio.wait_for(pool.close(), TIMEOUT_S)
