"""What an audit of tables finds in a cell that has none: tests of that have cells on PostgreSQL."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from cells.audit.cuts import Compared, Sides, SidesWanted
from cells.audit.desk import AuditDesk
from cells.audit.findings import Report
from cells.audit.passes import Order, PassFailed, Tell
from cells.cell import Cell
from cells.clocks import UuidV7Ids
from cells.domain.refusals import NotLeading
from cells.domain.values import Ref
from cells.ports import Versioned
from server.services.audit_parts import Books


def no_books(cell: Cell) -> Books:
    """Of a cell in memory."""
    away, ids = NoTables(cell.name), UuidV7Ids(cell.time.clock)
    desk = AuditDesk(cell=cell, passes=away, clearing=away, held=away, states_of=away.states, ids=ids)
    return Books(desk=desk, ledge=away)


class NoTables:
    def __init__(self, cell: str) -> None:
        self.cell = cell

    async def run(self, order: Order, tell: Tell) -> Report:
        raise PassFailed("a store in memory has no tables")

    async def compare(self, *, full: bool) -> Compared:
        raise NotLeading(cell=self.cell)

    async def sides(self, wanted: SidesWanted) -> Sides:
        return Sides(0, [], more=False)

    async def load(self) -> dict[Ref, str]:
        return {}

    async def keep(self, held: Mapping[Ref, str]) -> None:
        pass

    async def states(self, ids: Sequence[UUID]) -> dict[Ref, Versioned]:
        return {}
