"""What an audit of tables finds in a cell that has none: tests of that have cells on PostgreSQL."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from cells.audit.reconcile.cuts import ClearingBalance, Compared, Sides, SidesWanted
from cells.audit.reconcile.findings import Order, Report, Tell
from cells.audit.reconcile.service import ReconciliationService
from cells.cell import Cell
from cells.domain.refusals import NotLeading, Unavailable
from cells.domain.values import Ref
from cells.store.ports import Store, Versioned
from tests.doubles.store import MemoryStore


def reconciliation_of(cell: Cell) -> ReconciliationService:
    """Of a cell in memory."""
    away: Any = NoTables(cell.name, cell.store)
    return ReconciliationService(cell=cell, passes=away, clearing=away, states=away, reload=away.reload)


class NoTables:
    replay_key = b""

    def __init__(self, cell: str, store: Store) -> None:
        self.cell, self.store = cell, store

    async def run(self, order: Order, tell: Tell) -> Report:
        raise Unavailable(problem="a store in memory has no tables")

    async def compare(self, *, full: bool) -> Compared:
        raise NotLeading(cell=self.cell)

    async def sides(self, wanted: SidesWanted) -> Sides:
        return Sides(0, [], more=False)

    async def balances(self) -> list[ClearingBalance]:
        house = self.store.house if isinstance(self.store, MemoryStore) else {}
        return [
            ClearingBalance(account.removeprefix("clearing/"), currency, amount_minor)
            for (account, currency), amount_minor in sorted(house.items())
            if account.startswith("clearing/") and amount_minor
        ]

    async def keep(self, held: Mapping[Ref, str]) -> None:
        pass

    async def reload(self, kinds: object) -> None:
        """It is never called: nothing is rebuilt."""

    async def states(self, ids: Sequence[UUID]) -> dict[Ref, Versioned]:
        return {}
