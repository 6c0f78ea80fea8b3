"""A fresh database for each test, cloned from a migrated template: one PostgreSQL for each process that runs tests."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from cells.store.postgres import PostgresStore
from server.process.cell import connect_writer
from server.shell.postgres.database import Connection, migrate, open_pool
from server.shell.postgres.embedded import EmbeddedPostgres

CELL = "us-east"
CELL_ROLE = "cellbook_cell"
TEMPLATE = "cell_template"
TIMEOUT_S = 10.0


@pytest.fixture(scope="session")
def cluster() -> Iterator[EmbeddedPostgres]:
    """One server; each worker of pytest-xdist has one of its own. Its files are removed though a test has failed."""
    with TemporaryDirectory(prefix="cellbook-tests-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")) as folder:
        # The server's user passes through it.
        Path(folder).chmod(0o755)
        server = EmbeddedPostgres(Path(folder, "data"), {"max_wal_size": "1GB"})
        try:
            asyncio.run(server.start())
            yield server
        finally:
            asyncio.run(server.stop("immediate"))


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """One more server, of a module's own, which may stop it and change its settings."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"))
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop("immediate"))


@pytest.fixture(scope="session")
def template(cluster: EmbeddedPostgres) -> str:
    """The name of a database that has every migration of a cell and no rows."""
    return migrated(cluster, TEMPLATE, "cells.sql")


def migrated(cluster: EmbeddedPostgres, name: str, package: str) -> str:
    """Makes a database of that name with every migration of the package."""

    async def make() -> None:
        await cluster.ensure_database(name)
        await migrate(cluster.dsn(name), package)

    asyncio.run(make())
    return name


@pytest.fixture
async def cell_dsn(cluster: EmbeddedPostgres, template: str) -> AsyncIterator[str]:
    """A database of the test's own. Afterwards no session may be left within a transaction."""
    name = f"cell_{uuid4().hex}"
    await copy_database(cluster, template, name)
    yield cluster.dsn(name)
    left = await ask(
        cluster.dsn("postgres"),
        "SELECT application_name, query FROM pg_stat_activity WHERE datname = $1 AND state LIKE 'idle in transaction%'",
        name,
    )
    await ask(cluster.dsn("postgres"), f'DROP DATABASE "{name}" WITH (FORCE)')
    assert not left, f"left within a transaction: {left}"


@pytest.fixture
async def superuser(cell_dsn: str) -> AsyncIterator[Connection]:
    async with connected(cell_dsn) as connection:
        yield connection


async def copy_database(cluster: EmbeddedPostgres, template: str, name: str) -> None:
    """Makes a database with what the template holds.

    Its files are copied: through the log, as by default, making and dropping it would take twice the CPU time.
    """
    await ask(cluster.dsn("postgres"), f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')


async def ask(dsn: str, query: str, *arguments: object) -> list[tuple[Any, ...]]:
    """The rows of one query, put by whoever owns the server."""
    return [tuple(row) for row in await records(dsn, query, *arguments)]


async def records(dsn: str, query: str, *arguments: object) -> list[asyncpg.Record]:
    """The same, with the names of their columns."""
    async with connected(dsn) as connection:
        return await connection.fetch(query, *arguments)


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[Connection]:
    """A connection of whoever owns the server."""
    connection = await asyncpg.connect(dsn, timeout=TIMEOUT_S, command_timeout=TIMEOUT_S)
    try:
        yield connection
    finally:
        await connection.close(timeout=TIMEOUT_S)


@asynccontextmanager
async def opened(dsn: str, cell: str = CELL, saga_engine: str = "native") -> AsyncIterator[PostgresStore]:
    """A store on the database as a cell's process has it."""
    async with opened_raw(dsn, cell, saga_engine) as store:
        await store.prepare()
        yield store


@asynccontextmanager
async def opened_raw(dsn: str, cell: str = CELL, saga_engine: str = "native") -> AsyncIterator[PostgresStore]:
    """The same, and nothing was done with it yet."""
    store = PostgresStore(
        cell=cell,
        connect=partial(connect_writer, dsn),
        reads=await open_pool(dsn, role=CELL_ROLE, application=f"cellbook/{cell}/reads", size_max=3),
        saga_engine=saga_engine,
    )
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def another(cluster: EmbeddedPostgres, template: str) -> AsyncIterator[str]:
    """One more fresh database, beside the test's own."""
    name = f"cell_{uuid4().hex}"
    await copy_database(cluster, template, name)
    try:
        yield cluster.dsn(name)
    finally:
        await ask(cluster.dsn("postgres"), f'DROP DATABASE "{name}" WITH (FORCE)')
