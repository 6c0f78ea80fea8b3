"""A database of an older version is upgraded with the outcomes that are in it."""

from uuid import uuid4

import pytest

from server.shell.postgres import database
from server.shell.postgres.database import migrate
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.database import ask, opened_raw

# The first one in which senders are stored.
SENDERS = 14
# As the older version writes it, also beside the new one while processes are exchanged one by one.
INSERT = """
INSERT INTO command_outcomes
    (command_id, fingerprint, outcome, position, hlc_physical, hlc_logical, recorded_at, user_id)
VALUES ($1, '\\x01', '{"accepted": {}}', 1, 1, 0, now(), $2)
"""


async def test_outcomes_of_an_older_version_are_there_after_the_upgrade(
    cluster: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a sender: they answer by their fingerprint. Those of a refused user are found for the next move."""
    name = f"older_{uuid4().hex}"
    await cluster.ensure_database(name)
    dsn, all_of = cluster.dsn(name), database.migrations_of
    with monkeypatch.context() as older:
        older.setattr(database, "migrations_of", lambda package: [m for m in all_of(package) if m.version < SENDERS])
        await migrate(dsn, "cells.sql")
    await ask(dsn, "SELECT keep_outcome_partitions(now())")
    before, beside, user = uuid4(), uuid4(), uuid4()
    await ask(dsn, INSERT, before, user)
    await migrate(dsn, "cells.sql")
    await ask(dsn, INSERT, beside, user)
    async with opened_raw(dsn) as store:
        rows = await store.outcomes_of(user, after=None, limit=9)
        assert {row.command_id for row in rows} == {before, beside}
        for row in await store.outcomes([before, beside]):
            assert (row.principal, row.user_id, row.in_stream, row.cell, row.saga_id) == ("", user, False, None, None)
    await ask(cluster.dsn("postgres"), f'DROP DATABASE "{name}" WITH (FORCE)')
