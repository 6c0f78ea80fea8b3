"""The trial balance: the sums of all postings of a log at a moment, by account. The total is zero."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

from cells.audit.history.moments import Moment, Point
from cells.audit.history.questions import History
from cells.audit.history.snapshots import HouseSnapshot
from cells.audit.verify.books import summed
from cells.encoding import codec
from cells.encoding.codec import canonical
from cells.writer.batch import Commit, Committed

log = structlog.get_logger()

# Sums are stored once per this many events.
HOUSE_EVERY = 20_000
ROWS_AT_ONCE = 1_000
# Sums of the writer's own events, in case they are still to be stored. Those of older events are read from the log.
PARTS_MAX = 256

# (account, currency) -> minor units; the buckets of all users are three accounts, "users/available" and so on.
Sums = Mapping[tuple[str, str], int]


class TrialBalance(NamedTuple):
    sums: Sums
    point: Point


@dataclass(slots=True)
class LiveSums:
    """Sums the postings of this process's commits between each two positions at which sums are stored.

    Reading these events again and checking each takes a fifth of the time of deciding them.
    """

    # All events after `_begun` up to `_position` are in `_sums`.
    _begun: int = -1
    _position: int = -1
    _sums: Counter[tuple[str, str]] = field(default_factory=Counter)
    # By the position of their last event.
    _parts: dict[int, Counter[tuple[str, str]]] = field(default_factory=dict)

    def follow(self, commit: Commit) -> None:
        """Receives each commit of this process, in order."""
        for committed in commit.events:
            position = committed.row.position
            if position != self._position + 1:
                # Another process has led in between.
                self._begin(position - 1)
            self._add(committed)
            self._position = position
            if position % HOUSE_EVERY == 0:
                self._keep(position)

    def between(self, after: int, until: int) -> Counter[tuple[str, str]] | None:
        """The sums of the events after one position, up to and including another; None: they are not known here."""
        return self._parts.get(until) if until - after == HOUSE_EVERY else None

    def _begin(self, position: int) -> None:
        self._sums, self._begun = Counter(), position

    def _keep(self, position: int) -> None:
        if self._begun == position - HOUSE_EVERY:
            self._parts[position] = self._sums
        if len(self._parts) > PARTS_MAX:
            del self._parts[min(self._parts)]
        self._begin(position)

    def _add(self, committed: Committed) -> None:
        movement, aggregate, sums = committed.event.movement(), committed.aggregate, self._sums
        if movement is None:
            return
        currency = movement.currency
        if movement.house:
            for account, _, change in movement.lines(aggregate.kind, aggregate.id):
                sums[summed(account), currency] += change
        else:
            # The same in a third of the time: most events move money between the buckets of one account.
            sums["users/available", currency] += movement.available
            sums["users/reserved", currency] += movement.reserved
            sums["users/pending", currency] += movement.pending


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialBalances:
    history: History
    live: LiveSums = field(default_factory=LiveSums)

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
        if (known := self.live.between(after, until)) is not None:
            sums.update(known)
            return
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
