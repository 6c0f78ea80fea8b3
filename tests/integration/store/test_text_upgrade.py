"""A store in which JSON was JSONB is migrated with everything in it: every hash, state and sum is right. It goes on."""

from collections.abc import AsyncIterator
from io import BytesIO
from uuid import uuid4

import asyncpg
import pytest

from server.shell.postgres import database
from server.shell.postgres.database import migrate
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.books.test_reconcile import reconciled
from tests.integration.database import ask, connected
from tests.integration.played import HERE, Played, serving
from tests.invariants import check_all

# The first one in which JSON is text.
TEXT = 24
# The tables of the older version, in which partitions stand for their parent, and the columns that are written.
OLD_TABLES = """
SELECT c.relname, array_agg(a.attname::text ORDER BY a.attnum)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND c.relname NOT IN ('schema_migrations', 'snapshot_progress') AND c.relname NOT LIKE 'reconciled%'
  AND a.attgenerated = ''
GROUP BY c.relname
"""
STATES = "SELECT kind, id, stream_version, state, columns FROM states ORDER BY kind, id"
LEAVES = "SELECT position, leaf_hash FROM event_store WHERE position <= $1 ORDER BY position"
# As the older version does.
OLD_CLAIM = "UPDATE head SET epoch = epoch + 1, beat = beat + 1 RETURNING epoch"


@pytest.fixture
async def older(
    cluster: EmbeddedPostgres, played: Played, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[dict[str, str]]:
    """The market's databases as the older version has them."""
    names = {cell: f"older_{uuid4().hex}" for cell in played.dsns}
    all_of = database.migrations_of
    for cell, name in names.items():
        await cluster.ensure_database(name)
        with monkeypatch.context() as before:
            before.setattr(database, "migrations_of", lambda package: [m for m in all_of(package) if m.version < TEXT])
            await migrate(cluster.dsn(name), "cells.sql")
        await copied(played.dsns[cell], cluster.dsn(name))
    yield {cell: cluster.dsn(name) for cell, name in names.items()}
    for name in names.values():
        await ask(cluster.dsn("postgres"), f'DROP DATABASE "{name}" WITH (FORCE)')


async def copied(source_dsn: str, target_dsn: str) -> None:
    """Row by row, as text: JSON becomes JSONB."""
    async with connected(source_dsn) as source, connected(target_dsn) as target:
        await target.execute("SELECT keep_outcome_partitions(now())")
        for table, columns in await target.fetch(OLD_TABLES):
            rows = BytesIO()
            await source.copy_from_query(f"SELECT {', '.join(columns)} FROM {table}", output=rows)  # noqa: S608
            rows.seek(0)
            await target.copy_to_table(table, source=rows, columns=columns)


async def test_a_store_is_migrated_with_all_that_is_in_it(older: dict[str, str], played: Played) -> None:
    """The same states, with their columns; nothing is found; and the market is played once more on top of it."""
    before = {cell: await ask(dsn, LEAVES, 2**62) for cell, dsn in older.items()}
    for cell, dsn in older.items():
        await migrate(dsn, "cells.sql")
        assert await ask(dsn, STATES) == await ask(played.dsns[cell], STATES)
        assert await ask(dsn, "SELECT * FROM balances") == await ask(played.dsns[cell], "SELECT * FROM balances")
        report = await reconciled(dsn)
        assert (report.findings, report.position) == ([], len(before[cell]))
    await check_all(older)
    async with serving(older) as town:
        await town.play()
    await check_all(older)
    for cell, dsn in older.items():
        report = await reconciled(dsn)
        assert report.findings == []
        assert report.position > len(before[cell])
        assert await ask(dsn, LEAVES, len(before[cell])) == before[cell]


async def test_a_process_of_the_older_version_leads_no_more(older: dict[str, str]) -> None:
    """It is deposed by the migration, and cannot claim: it would leave the columns beside a state as they are."""
    dsn = older[HERE]
    [(epoch,)] = await ask(dsn, "SELECT epoch FROM head")
    await migrate(dsn, "cells.sql")
    assert await ask(dsn, "SELECT epoch, beat FROM head") == [(epoch + 1, 0)]
    with pytest.raises(asyncpg.CheckViolationError, match="head_claimed_with_this_layout"):
        await ask(dsn, OLD_CLAIM)
