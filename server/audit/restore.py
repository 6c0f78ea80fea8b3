"""Restores an export into an empty database, before its cell starts."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

from cells.audit.export.restore import PostgresIntake, Restore, Restored, RestoreRefused
from cells.audit.proofs.store import PostgresProofs
from cells.audit.verify.note import VerifierKey
from cells.store.postgres import PostgresStore
from server.process.embedded import database_of
from server.shell.hosting.failures import reaching
from server.shell.postgres import database
from server.shell.postgres.database import CELL_ROLE, OWNER_ROLE

APPLICATION = "cellbook/import"
LINE_BYTES_MAX = 16 * 1024 * 1024


async def put_back(
    file: Path, dsn: str, data: Path | None, keys: Sequence[VerifierKey], progress: Callable[[int, int], None]
) -> Restored:
    """Into a database of its own, or that of the embedded server in a folder.

    Raises RestoreRefused, and any error that makes the database unusable.
    """
    async with database_of(dsn, data) as where, AsyncExitStack() as stack:
        with reaching("dsn", where):
            await database.migrate(where, "cells.sql")
        store = PostgresStore(
            cell="import",
            connect=lambda application: database.connect(where, role=CELL_ROLE, application=application),
            reads=await database.open_pool(where, role=CELL_ROLE, application=APPLICATION, size_max=2),
        )
        stack.push_async_callback(store.close)
        owner = await database.connect(where, role=OWNER_ROLE, application=APPLICATION)
        stack.callback(owner.terminate)
        restore = Restore(
            store=store,
            proofs=PostgresProofs(pool=store.reads),
            intake=PostgresIntake(owner),
            keys=keys,
            now=datetime.now(UTC),
            progress=progress,
        )
        return await restore.run(_lines(file))
    raise AssertionError


async def _lines(path: Path) -> AsyncIterator[bytes]:
    try:
        with path.open("rb") as file:
            while line := file.readline(LINE_BYTES_MAX):
                yield line
    except OSError as error:
        raise RestoreRefused(f"{path}: {error.strerror}") from None
