"""The lookups of the past, and by cause and effect, in memory: they read the log each time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from cells.audit.checks.checked import Checked, checked
from cells.audit.history.ports import Buckets, HomedUser
from cells.audit.history.questions import changes_of
from cells.audit.history.snapshots import HouseSnapshot, Snapshot
from cells.domain.account.account import Account
from cells.domain.time.hlc import Stamp
from cells.domain.values import Kind
from cells.encoding import codec
from cells.store.ports import AccountEntryRow, EventRow, OutcomeRow
from tests.doubles.store import MemoryStore


@dataclass(frozen=True, slots=True)
class MemoryHistoryLookups:
    store: MemoryStore
    kept: list[Snapshot] = field(default_factory=list)

    async def position_at(self, stamp: Stamp, head: int) -> tuple[int, int | None]:
        earlier = [row for row in self.store.log[:head] if (row.hlc_physical, row.hlc_logical) <= stamp]
        return len(earlier), None

    async def rows_at(self, positions: Sequence[int]) -> list[Checked]:
        return [checked(row) for row in self.store.log if row.position in positions]

    async def stream_begins(self, aggregate_id: UUID) -> int | None:
        return next((row.position for row in self._stream(aggregate_id)), None)

    async def stream_from(
        self, aggregate_id: UUID, *, version: int, until: int, limit: int
    ) -> tuple[list[Checked], bool]:
        rows = [row for row in self._stream(aggregate_id) if row.stream_version >= version and row.position <= until]
        return [checked(row) for row in rows[:limit]], len(rows) >= limit

    async def snapshot_at(self, aggregate_id: UUID, position: int) -> Snapshot | None:
        known = [each for each in self.kept if each.aggregate_id == aggregate_id and each.position <= position]
        return max(known, key=lambda each: each.position, default=None)

    async def put(self, *snapshots: Snapshot) -> None:
        self.kept.extend(each for each in snapshots if each not in self.kept)

    async def snapshots_of(self, aggregate_id: UUID) -> list[Snapshot]:
        return [each for each in self.kept if each.aggregate_id == aggregate_id]

    async def balances_at(
        self, account_id: UUID, position: int
    ) -> list[tuple[AccountEntryRow, AccountEntryRow | None]]:
        entries = self._entries(account_id, position)
        return [(each[-1], each[-2] if len(each) > 1 else None) for _, each in sorted(entries.items())]

    async def movements(
        self, account_id: UUID, currency: str, after: int, until: int, limit: int
    ) -> list[AccountEntryRow]:
        return [each for each in self._entries(account_id, until).get(currency, []) if each.position > after][:limit]

    async def entry_at(self, account_id: UUID, currency: str, position: int) -> AccountEntryRow | None:
        return next(reversed(self._entries(account_id, position).get(currency, [])), None)

    async def movements_sum(self, account_id: UUID, currency: str, after: int, until: int) -> tuple[int, Buckets]:
        rows = await self.movements(account_id, currency, after, until, len(self.store.log))
        return len(rows), (sum(row[3] for row in rows), sum(row[4] for row in rows), sum(row[5] for row in rows))

    async def types_of(self, event_ids: Sequence[UUID]) -> dict[UUID, str]:
        return {row.event_id: row.event_type for row in self.store.log if row.event_id in event_ids}

    async def all_balances_at(
        self, after: tuple[UUID, str], position: int, limit: int
    ) -> list[tuple[UUID, str, AccountEntryRow | None]]:
        found: list[tuple[UUID, str, AccountEntryRow | None]] = []
        for account_id in sorted({row.aggregate_id for row in self.store.log}):
            entries = await self.balances_at(account_id, position)
            found += [(account_id, entry.currency, entry) for entry, _ in entries]
        return [each for each in found if each[:2] > after][:limit]

    async def homes(self, after: UUID, limit: int) -> list[HomedUser]:
        found = []
        for ref, row in sorted(self.store.projections.items()):
            account = codec.decode_state(ref.kind, row.state) if ref.kind is Kind.ACCOUNT and ref.id > after else None
            if isinstance(account, Account) and not account.has_left:
                moving_to = "" if account.is_here or account.move is None else account.move.to_cell
                found.append(HomedUser(ref.id, account.home_epoch, moving_to))
        return found[:limit]

    async def house_snapshot_at(self, position: int) -> HouseSnapshot | None:
        return None

    async def rows_after(self, position: int, until: int, limit: int) -> list[Checked]:
        return [checked(row) for row in self.store.log[position:until][:limit]]

    async def put_house(self, snapshot: HouseSnapshot) -> None:
        """No snapshot is stored here."""

    def _entries(self, account_id: UUID, position: int) -> dict[str, list[AccountEntryRow]]:
        """By currency, in the order of their positions."""
        entries: dict[str, list[AccountEntryRow]] = {}
        for row in self._stream(account_id):
            if row.position <= position:
                for currency in {line.currency: None for line in codec.postings_of(row)}:
                    before = entries.setdefault(currency, [])
                    before.append(_entry(row, account_id, currency, before[-1] if before else None))
        return entries

    def _stream(self, aggregate_id: UUID) -> list[EventRow]:
        return [row for row in self.store.log if row.aggregate_id == aggregate_id]


def _entry(row: EventRow, account_id: UUID, currency: str, before: AccountEntryRow | None) -> AccountEntryRow:
    changes = changes_of(row, account_id, currency)
    had = before[6:9] if before is not None else (0, 0, 0)
    after = (had[0] + changes[0], had[1] + changes[1], had[2] + changes[2])
    return AccountEntryRow(account_id, currency, row.position, *changes, *after)


@dataclass(frozen=True, slots=True)
class MemoryTraceLookups:
    store: MemoryStore

    async def subjects(self, subject: UUID, limit: int) -> list[UUID]:
        began = f'"command_id":"{subject}"'
        sagas = {row.aggregate_id for row in self.store.log if row.stream_version == 1 and began in row.payload}

        def wanted(row: EventRow) -> bool:
            by_command = began in row.metadata or row.correlation_id in sagas
            return subject in {row.event_id, row.correlation_id, row.aggregate_id} or by_command

        return [row.event_id for row in self.store.log if wanted(row)][:limit]

    async def causes(self, ids: Iterable[UUID], limit: int) -> list[UUID]:
        known = {row.event_id: row for row in self.store.log}
        found: dict[UUID, None] = {}
        waiting = [event_id for event_id in ids if event_id in known]
        while waiting:
            event_id = waiting.pop()
            if event_id in known and event_id not in found:
                found[event_id] = None
                cause = known[event_id].causation_id
                waiting += [cause] if cause is not None else []
        return list(found)[:limit]

    async def effects(self, ids: Iterable[UUID], limit: int) -> list[UUID]:
        causes, found = set(ids), dict[UUID, None]()
        # In one log, an effect is always after its cause.
        for row in self.store.log:
            if row.causation_id in causes:
                causes.add(row.event_id)
                found[row.event_id] = None
        return list(found)[:limit]

    async def outcomes(self, command_id: UUID) -> list[OutcomeRow]:
        return await self.store.outcomes([command_id])

    async def rows(self, ids: Iterable[UUID]) -> list[Checked]:
        wanted = set(ids)
        return [checked(row) for row in self.store.log if row.event_id in wanted]
