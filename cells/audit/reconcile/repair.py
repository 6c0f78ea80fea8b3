"""Repairs derived rows as the owner of the tables: no other role may change or delete them.

It is one short transaction. It locks the head row first, as every commit of the writer does: meanwhile no process
writes, and a deposed leader is refused. It inserts rows that follow from events, and deletes rows that do not.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from cells.audit.reconcile.findings import WrongState
from cells.audit.reconcile.one_pass import DERIVED, KEYS, PROJECTIONS, Difference
from cells.sql import queries
from cells.store.ports import Fenced

if TYPE_CHECKING:
    import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

SQL = queries("cells.sql", "mend.sql")


class WrongSnapshots(NamedTuple):
    """Positions of wrong states and house sums. They are deleted and made again from the events."""

    states: Sequence[int]
    house: Sequence[int]


async def repair(
    owner: Connection,
    *,
    epoch: int,
    differences: Sequence[Difference],
    strangers: Sequence[WrongState],
    snapshots: WrongSnapshots,
) -> int:
    """Returns the number of repaired rows. `strangers` are aggregates with rows but without events.

    Raises:
        Fenced: another process leads now.
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
