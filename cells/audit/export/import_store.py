"""The steps of an import that only the owner of the database may do."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from cells.audit.export.restore import RestoreRefused
from cells.audit.proofs.store import SQL
from cells.store.outcomes import NO_OUTCOME, OutcomePlace
from cells.store.postgres import SQL as STORE_SQL
from cells.store.sessions import Connection


@dataclass(slots=True, kw_only=True)
class PostgresIntake:
    """`connect` opens a connection with the owner's role."""

    connect: Callable[[], Awaitable[Connection]]
    _connection: "Connection | None" = None

    async def begin(self, cell: str) -> tuple[int, int]:
        self._connection = connection = await self.connect()
        await connection.execute(STORE_SQL["make_head"], cell)
        begun = await connection.fetchrow(SQL["import_begin"], cell)
        if begun is None:
            owner, position = await connection.fetchrow(SQL["import_head"])  # type: ignore[misc]
            raise RestoreRefused(
                f"the database has the log of {owner}, up to position {position}, and the export is of {cell}: "
                "an export is put back into an empty database"
            )
        return begun["epoch"], begun["position"]

    async def last_outcome(self) -> OutcomePlace:
        found = await self._owner().fetchrow(SQL["last_outcome"])
        return OutcomePlace(*found) if found is not None else NO_OUTCOME

    async def keep_partitions(self, moment: datetime) -> None:
        await self._owner().execute(STORE_SQL["keep_outcome_partitions"], moment)

    async def finish(self, *, epoch: int, saga_engine: str) -> None:
        await self._owner().execute(SQL["import_finish"], epoch, saga_engine)

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.terminate()

    def _owner(self) -> Connection:
        if self._connection is None:
            raise RuntimeError("begin first")
        return self._connection
