"""Restores an export into an empty database, before its cell starts."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from cells.audit.export.restore import PostgresIntake, Restore, Restored, RestoreRefused
from cells.audit.proofs.store import PostgresProofs
from cells.audit.verify.note import VerifierKey
from cells.store.postgres import PostgresStore
from server.shell.hosting.failures import reaching
from server.shell.postgres import database
from server.shell.postgres.embedded import EmbeddedPostgres

DATABASE = "cellbook"
CELL_ROLE, OWNER_ROLE = "cellbook_cell", "cellbook_owner"
APPLICATION = "cellbook/import"
LINE_BYTES_MAX = 16 * 1024 * 1024


class Where(NamedTuple):
    """A database of its own, or the folder of an embedded one."""

    dsn: str
    data: Path | None


async def put_back(
    file: Path, where: Where, keys: Sequence[VerifierKey], progress: Callable[[int, int], None]
) -> Restored:
    """Raises RestoreRefused, and any error that makes the database unusable."""
    async with _database(where) as dsn:
        with reaching("dsn", dsn):
            await database.migrate(dsn, "cells.sql")
        store = PostgresStore(
            cell="import",
            connect=lambda application: database.connect(dsn, role=CELL_ROLE, application=application),
            reads=await database.open_pool(dsn, role=CELL_ROLE, application=APPLICATION, size_max=2),
        )
        intake = PostgresIntake(connect=lambda: database.connect(dsn, role=OWNER_ROLE, application=APPLICATION))
        try:
            restore = Restore(
                store=store,
                proofs=PostgresProofs(pool=store.reads),
                intake=intake,
                keys=keys,
                now=datetime.now(UTC),
                progress=progress,
            )
            return await restore.run(_lines(file))
        finally:
            await intake.close()
            await store.close()


@asynccontextmanager
async def _database(where: Where) -> AsyncIterator[str]:
    if where.data is None:
        yield where.dsn
        return
    postgres = EmbeddedPostgres(where.data)
    await postgres.start()
    try:
        await postgres.ensure_database(DATABASE)
        yield postgres.dsn(DATABASE)
    finally:
        await postgres.stop()


async def _lines(path: Path) -> AsyncIterator[bytes]:
    try:
        with path.open("rb") as file:
            while line := file.readline(LINE_BYTES_MAX):
                yield line
    except OSError as error:
        raise RestoreRefused(f"{path}: {error.strerror}") from None
