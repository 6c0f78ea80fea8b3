"""Derived rows put right by the owner of the tables: neither the cell's role nor any other may change or delete them.

It is a transaction of a moment. The head row is locked first, as every commit of the writer locks it: meanwhile nobody
writes, and whoever was deposed is refused. What is inserted follows from events, what is deleted does not.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from cells.audit.findings import WrongState
from cells.audit.reconcile import DERIVED, KEYS, PROJECTIONS, Difference
from cells.ports import Fenced
from cells.sql import queries

if TYPE_CHECKING:
    import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

SQL = queries("cells.sql", "mend.sql")


class WrongSnapshots(NamedTuple):
    """Positions: of states, and of the house's sums. Thrown away, they are made again from the events."""

    states: Sequence[int]
    house: Sequence[int]


async def mend(
    owner: Connection,
    *,
    epoch: int,
    differences: Sequence[Difference],
    strangers: Sequence[WrongState],
    snapshots: WrongSnapshots,
) -> int:
    """How many rows were put right. `strangers` are rows of aggregates that no event tells of.

    Raises:
        Fenced: another process leads by now.
    """
    async with owner.transaction():
        if await owner.fetchval(SQL["lock_head"]) != epoch:
            raise Fenced("another process leads: nothing was put right")
        for table, row, _ in DERIVED:
            await _mend(owner, table, row._fields, [each for each in differences if each.table == table])
        by_table = defaultdict(list)
        for stranger in strangers:
            by_table[PROJECTIONS[stranger.kind]].append(stranger.id)
        for table, ids in sorted(by_table.items()):
            await owner.execute(SQL[f"drop_{table}"], ids)
        await owner.execute(SQL["drop_snapshots"], snapshots.states)
        await owner.execute(SQL["drop_house_snapshots"], snapshots.house)
    return len(differences) + len(strangers) + len(set(snapshots.states)) + len(set(snapshots.house))


async def _mend(owner: Connection, table: str, columns: Sequence[str], differences: Sequence[Difference]) -> None:
    if not differences:
        return
    wrong: list[tuple[Any, ...]] = [each.found for each in differences if each.found is not None]
    right: list[tuple[Any, ...]] = [each.expected for each in differences if each.expected is not None]
    await owner.execute(SQL[f"open_{table}"])
    if wrong:
        await owner.execute(SQL[f"drop_{table}"], *([row[place] for row in wrong] for place in KEYS[table]))
    if right:
        await owner.copy_records_to_table(table, records=right, columns=columns)
    await owner.execute(SQL[f"close_{table}"])
