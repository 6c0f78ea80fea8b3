"""The database in a cell's settings, or an embedded server, which is kept running."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from cells.background import BackgroundTask, running
from server.shell.postgres.embedded import EmbeddedPostgres
from server.shell.postgres.host import PostgresFailed

log = structlog.get_logger()

POLL_S = 0.5


@asynccontextmanager
async def database_of(dsn: str, data: Path | None) -> AsyncIterator[str]:
    """Its DSN. An embedded server runs while this is entered, and is restarted if it is killed."""
    if dsn or data is None:
        yield dsn
        return
    postgres = EmbeddedPostgres(data)

    async def poll() -> None:
        if postgres.pid is None:
            log.warning("postgres_gone", path=str(postgres.cluster))
            await postgres.start()
            log.info("postgres_back", pid=postgres.pid)

    keeping = BackgroundTask(name="postgres", work=poll, every_s=POLL_S, outages=(PostgresFailed,))
    try:
        found = await postgres.database()
        async with running(keeping):
            yield found
    finally:
        await postgres.stop()
