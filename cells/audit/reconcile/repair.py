"""Repairs derived rows as the owner of the tables: no other role may change or delete them.

It is one short transaction. It locks the head row first, as every commit of the writer does: meanwhile no process
writes, and a deposed leader is refused. It inserts rows that follow from events, and deletes rows that do not.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from cells.audit.reconcile.findings import WrongState
from cells.audit.reconcile.one_pass import DERIVED, PROJECTIONS, Derived, Difference, Reconciler
from cells.sql import queries
from cells.store.ports import Fenced

if TYPE_CHECKING:
    import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

SQL = queries("cells.sql", "mend.sql")


async def repair(owner: Connection, epoch: int, wrong: Reconciler, strangers: Sequence[WrongState]) -> int:
    """Returns the number of repaired rows. `strangers` are aggregates with rows but without events.

    Wrong snapshots are deleted, and made again from the events later.

    Raises:
        Fenced: another process leads now.
    """
    async with owner.transaction():
        if await owner.fetchval(SQL["lock_head"]) != epoch:
            raise Fenced("another process leads: nothing was put right")
        for derived in DERIVED:
            await _mend(owner, derived, [each for each in wrong.differences if each.table == derived.table])
        by_table = defaultdict(list)
        for stranger in strangers:
            by_table[PROJECTIONS[stranger.kind]].append(stranger.id)
        for table, ids in sorted(by_table.items()):
            await owner.execute(SQL[f"drop_{table}"], ids)
        await owner.execute(SQL["drop_snapshots"], wrong.snapshots)
        await owner.execute(SQL["drop_house_snapshots"], wrong.house_snapshots)
    snapshots = len(set(wrong.snapshots)) + len(set(wrong.house_snapshots))
    return len(wrong.differences) + len(strangers) + snapshots


async def _mend(owner: Connection, derived: Derived, differences: Sequence[Difference]) -> None:
    if not differences:
        return
    wrong = [derived.key_of(each.found) for each in differences if each.found is not None]
    right = [each.expected for each in differences if each.expected is not None]
    await owner.execute(SQL[f"open_{derived.table}"])
    if wrong:
        await owner.execute(SQL[f"drop_{derived.table}"], *zip(*wrong, strict=True))
    if right:
        await owner.copy_records_to_table(derived.table, records=right, columns=derived.columns)
    await owner.execute(SQL[f"close_{derived.table}"])
