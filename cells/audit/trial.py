"""The trial balance: what all postings of a log come to at a moment, account by account. It sums to zero."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import structlog

from cells.audit.history import History
from cells.audit.moments import Moment, Point
from cells.audit.snapshots import state_hash
from cells.codec import canonical

log = structlog.get_logger()

# The sums are kept every so many events.
HOUSE_EVERY = 20_000

# (account, currency) -> minor units; the buckets of all users are three accounts, "users/available" and so on.
Sums = Mapping[tuple[str, str], int]


class HouseSnapshot(NamedTuple):
    position: int
    # Account -> currency -> minor units, as canonical JSON.
    balances: str
    leaf_hash: bytes
    state_hash: bytes

    @property
    def intact(self) -> bool:
        return self.state_hash == state_hash(self.leaf_hash, self.balances)

    def sums(self) -> Sums:
        return {
            (account, currency): int(amount)
            for account, amounts in json.loads(self.balances).items()
            for currency, amount in amounts.items()
        }


class TrialLookups(Protocol):
    async def house_snapshot_at(self, position: int) -> HouseSnapshot | None:
        """The last one at or before `position`."""

    async def house_moved(self, after: int, until: int) -> Sums:
        """What the postings after one position and up to another come to. Raises PostingsDamaged."""

    async def put_house(self, snapshot: HouseSnapshot) -> None: ...


class TrialBalance(NamedTuple):
    sums: Sums
    point: Point


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialBalances:
    history: History
    lookups: TrialLookups

    async def at(self, moment: Moment) -> TrialBalance:
        """Raises what `History.point` raises, and PostingsDamaged."""
        point = await self.history.point(moment)
        return TrialBalance(await self.sums_at(point.position), point)

    async def sums_at(self, position: int) -> Sums:
        snapshot = await self._begun(position)
        sums = dict(snapshot.sums()) if snapshot is not None else {}
        moved = await self.lookups.house_moved(snapshot.position if snapshot is not None else 0, position)
        for account, amount_minor in moved.items():
            sums[account] = sums.get(account, 0) + amount_minor
        return {account: amount_minor for account, amount_minor in sorted(sums.items()) if amount_minor}

    async def _begun(self, position: int) -> HouseSnapshot | None:
        while (snapshot := await self.lookups.house_snapshot_at(position)) is not None:
            if snapshot.intact:
                return snapshot
            log.critical("house_snapshot_damaged", cell=self.history.cell, position=snapshot.position)
            position = snapshot.position - 1
        return None

    async def keep(self, position: int) -> None:
        """Makes the snapshot after the event at `position`, on top of the last one."""
        [source] = await self.history.lookups.rows_at([position])
        balances: dict[str, dict[str, str]] = {}
        for (account, currency), amount_minor in (await self.sums_at(position)).items():
            balances.setdefault(account, {})[currency] = str(amount_minor)
        text, leaf = canonical(balances), bytes(source.row.leaf_hash)
        await self.lookups.put_house(HouseSnapshot(position, text, leaf, state_hash(leaf, text)))
