"""The trial balance: the sums of all postings of a log at a moment, by account. The total is zero."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import structlog

from cells.audit.history.moments import Moment, Point
from cells.audit.history.questions import History
from cells.audit.history.snapshots import HouseSnapshot
from cells.audit.verify.books import summed
from cells.encoding import codec
from cells.encoding.codec import canonical

log = structlog.get_logger()

# Sums are stored once per this many events.
HOUSE_EVERY = 20_000
ROWS_AT_ONCE = 1_000

# (account, currency) -> minor units; the buckets of all users are three accounts, "users/available" and so on.
Sums = Mapping[tuple[str, str], int]


class TrialBalance(NamedTuple):
    sums: Sums
    point: Point


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialBalances:
    history: History

    async def at(self, moment: Moment) -> TrialBalance:
        """Raises what `History.point` raises, and EventDamaged."""
        point = await self.history.point(moment)
        return TrialBalance(await self.sums_at(point.position), point)

    async def sums_at(self, position: int) -> Sums:
        snapshot = await self._begun(position)
        sums = _sums_in(snapshot) if snapshot is not None else Counter[tuple[str, str]]()
        await self._add_moved(sums, snapshot.position if snapshot is not None else 0, position)
        return {account: amount_minor for account, amount_minor in sorted(sums.items()) if amount_minor}

    async def _add_moved(self, sums: Counter[tuple[str, str]], after: int, until: int) -> None:
        """Adds the postings after one position, up to and including another. Raises EventDamaged, LogIncomplete."""
        while after < until:
            rows = await self.history.lookups.rows_after(after, until, ROWS_AT_ONCE)
            for each in rows:
                row = self.history.intact(each)
                after += 1
                if row.position != after:
                    break
                for account, currency, amount_minor in codec.postings_of(row):
                    sums[summed(account), currency] += amount_minor
            if not rows or rows[-1].row.position != after:
                raise self.history.incomplete(f"position {after if rows else after + 1}")

    async def _begun(self, position: int) -> HouseSnapshot | None:
        while (snapshot := await self.history.lookups.house_snapshot_at(position)) is not None:
            if self.history.key.sealed(snapshot):
                return snapshot
            log.critical("house_snapshot_damaged", cell=self.history.cell, position=snapshot.position)
            position = snapshot.position - 1
        return None

    async def keep(self, position: int) -> None:
        """Makes the snapshot after the event at `position`, based on the last one."""
        [source] = await self.history.lookups.rows_at([position])
        balances: dict[str, dict[str, str]] = {}
        for (account, currency), amount_minor in (await self.sums_at(position)).items():
            balances.setdefault(account, {})[currency] = str(amount_minor)
        text, leaf = canonical(balances), bytes(source.row.leaf_hash)
        snapshot = HouseSnapshot(position, text, leaf, b"")
        await self.history.lookups.put_house(snapshot._replace(seal=self.history.key.seal(snapshot)))


def _sums_in(snapshot: HouseSnapshot) -> Counter[tuple[str, str]]:
    return Counter(
        {
            (account, currency): int(amount)
            for account, amounts in json.loads(snapshot.balances).items()
            for currency, amount in amounts.items()
        }
    )
