"""The listing of what the migrations make of an empty database: `python -m tests.schema` writes it anew.

A new migration needs it; `tests/integration/store/test_schema_drift.py` says so where it was forgotten.
"""

import asyncio
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import cells.sql
from cells.audit.checks.schema_check import LISTING, Schema, schema_of
from server.shell.postgres.database import connect, migrate
from server.shell.postgres.embedded import EmbeddedPostgres

PATH = Path(cells.sql.__file__).with_name(LISTING)


def text_of(schema: Schema) -> str:
    return json.dumps({"migrations": schema.migrations, "items": schema.items}, indent=1, ensure_ascii=False) + "\n"


async def listed(dsn: str) -> Schema:
    """With the partitions that a first leader makes."""
    connection = await connect(dsn, role="cellbook_cell", application="test/schema")
    try:
        await connection.execute("SELECT keep_outcome_partitions(now())")
        return await schema_of(connection)
    finally:
        await connection.close()


async def write() -> None:
    with TemporaryDirectory() as folder:
        server = EmbeddedPostgres(Path(folder))
        await server.start()
        try:
            await server.ensure_database("schema")
            await migrate(server.dsn("schema"), "cells.sql")
            PATH.write_text(text_of(await listed(server.dsn("schema"))), encoding="utf-8")
        finally:
            await server.stop("immediate")


if __name__ == "__main__":
    asyncio.run(write())
