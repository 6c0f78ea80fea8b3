"""The database in a cell's settings, or an embedded server, which is kept running."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from cells.background import BackgroundTask
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
    keeping = BackgroundTask(name="postgres", work=Keeper(postgres).poll, every_s=POLL_S, outages=(PostgresFailed,))
    try:
        found = await postgres.database()
        keeping.start()
        yield found
    finally:
        await keeping.stop()
        await postgres.stop()


@dataclass(frozen=True, slots=True)
class Keeper:
    postgres: EmbeddedPostgres

    async def poll(self) -> None:
        """Starts the server if it has stopped. Raises PostgresFailed."""
        if self.postgres.pid is None:
            log.warning("postgres_gone", path=str(self.postgres.cluster))
            await self.postgres.start()
            log.info("postgres_back", pid=self.postgres.pid)
