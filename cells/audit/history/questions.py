"""State at a past moment: balances by one index lookup, everything else by a snapshot and the events since.

If a row that an answer needs does not match its hash, the answer is refused.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar, cast
from uuid import UUID

import structlog

from cells.audit.checks.checked import UNREADABLE, Checked
from cells.audit.history.moments import BEGINNING, Moment, Point, time_text
from cells.audit.history.past_homes import PastHomes
from cells.audit.history.ports import HistoryLookups
from cells.audit.history.snapshots import Snapshot, SnapshotKey, is_due, may_be_due
from cells.domain.account.account import Account, Balance
from cells.domain.auction.asset import Asset
from cells.domain.auction.auction import Auction
from cells.domain.audit.refusals import (
    EntryDamaged,
    EventDamaged,
    LogIncomplete,
    MomentNotReached,
    NotThereYet,
)
from cells.domain.decision import State
from cells.domain.evolve import evolve
from cells.domain.refusals import (
    AssetNotFound,
    AuctionNotFound,
    NotLeading,
    Refused,
    SagaNotFound,
    Unavailable,
    UserNotFound,
)
from cells.domain.sagas.saga import Saga
from cells.domain.time.hlc import Stamp
from cells.domain.values import Kind, Ref
from cells.encoding import codec
from cells.requests import Read
from cells.store.ports import POSITION_MAX, AccountEntryRow, EventRow, Store
from cells.time.celltime import CellTime

log = structlog.get_logger()

S = TypeVar("S", bound=State)

# Events of a stream per read.
PAGE = 64
# Concurrent readers of the past: each takes time from the writer's process.
READERS_MAX = 4
# Commands that are being decided when a moment is requested are durable or discarded within this time.
SETTLED_WITHIN_S = 5.0
POLL_S = 0.005


@dataclass(frozen=True, slots=True)
class Past(Generic[S]):
    """A past state. `events_read`: how many events were folded; `snapshot_version`: onto which snapshot, 0 for none."""

    state: S
    stream_version: int
    point: Point
    events_read: int = 0
    snapshot_version: int = 0

    @property
    def read(self) -> Read[S]:
        return Read(state=self.state, stream_version=self.stream_version, position=self.point.position)


class Balances(NamedTuple):
    """Past balances by currency."""

    balances: dict[str, Balance]
    point: Point


@dataclass(slots=True)
class Fold:
    state: State | None = None
    version: int = 0
    events_read: int = 0
    snapshot_version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """`deciding` returns the commands that are being decided or committed here.

    Each method may raise Unavailable by way of StoreError, and what `point` raises.
    """

    cell: str
    store: Store
    time: CellTime
    lookups: HistoryLookups
    deciding: Callable[[], AbstractSet[Hashable]]
    # For a user without an account here, names the user's home.
    placed: Callable[[UserNotFound], Awaitable[Refused]]
    key: SnapshotKey = field(default_factory=SnapshotKey)
    # How often an answer was refused because of damaged rows, by the refusal's reason.
    damage: Counter[str] = field(default_factory=Counter)
    _readers: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(READERS_MAX))

    @property
    def homes(self) -> PastHomes:
        return PastHomes(cell=self.cell, store=self.store, lookups=self.lookups, intact=self.intact)

    # --- moments ----------------------------------------------------------------------------------------------------

    async def point(self, moment: Moment) -> Point:
        """The last event at or before the moment. The answer never changes later.

        Raises:
            MomentNotReached: the moment is in the future, or beyond the end of the log.
            NotLeading: only the leader knows whether more events will be written before that moment.
            EventDamaged, LogIncomplete: the rows around the moment are not those that were written.
        """
        head = (await self.store.head()).position
        if moment.position is not None:
            if moment.position > head:
                raise self._not_reached(moment, head)
            found = await self.lookups.rows_at([moment.position])
            return self._point_of(found, moment.position)
        wanted = moment.last_stamp()
        if wanted is None:
            raise ValueError("a moment is a position, a stamp or a time")
        head = await self._settled(moment, wanted, head)
        position, gap = await self.lookups.position_at(wanted, head)
        if gap is not None:
            raise self.incomplete(f"position {gap}")
        return await self._between(position, head)

    async def _between(self, position: int, head: int) -> Point:
        """The point at `position`, once the rows on both sides of the moment are verified.

        Stamps rise with positions. So if a changed row misled the search, these two rows would not be
        neighbours.
        """
        around = [each for each in (position, position + 1) if 1 <= each <= head]
        rows = await self.lookups.rows_at(around)
        if len(rows) < len(around):
            raise self.incomplete(f"one of the positions {around}")
        for each in rows:
            self.intact(each)
        return self._point_of(rows, position)

    def _point_of(self, rows: Sequence[Checked], position: int) -> Point:
        if position == 0:
            return BEGINNING
        for row, *_ in rows:
            if row.position == position:
                stamp = Stamp(row.hlc_physical, row.hlc_logical)
                return Point(position, stamp, codec.microseconds(row.recorded_at))
        raise self.incomplete(f"position {position}")

    async def _settled(self, moment: Moment, wanted: Stamp, head: int) -> int:
        """A position that covers every event at or before `wanted`, once no more of them can be written."""
        last = await self.lookups.rows_at([head])
        if last and not last[0].problem and wanted < (last[0].row.hlc_physical, last[0].row.hlc_logical):
            return head
        if not self.time.leading:
            raise NotLeading(cell=self.cell)
        # Stamps given from now on are later; events stamped before are in flight, durable, or discarded.
        now = self.time.stamp()
        if wanted > now:
            raise self._not_reached(moment, head)
        in_hand = set(self.deciding())
        try:
            async with asyncio.timeout(SETTLED_WITHIN_S):
                while in_hand & self.deciding():  # noqa: ASYNC110 - what is awaited has no event
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            problem = "what was being written at the moment that was asked for is not durable yet"
            raise Unavailable(problem=problem) from None
        return (await self.store.head()).position

    def _not_reached(self, moment: Moment, head: int) -> MomentNotReached:
        now_ms = self.time.clock.wall_ms()
        return MomentNotReached(cell=self.cell, moment=str(moment), position=head, now=time_text(now_ms), now_ms=now_ms)

    # --- what there was ---------------------------------------------------------------------------------------------

    async def balances(self, user_id: UUID, moment: Moment) -> Balances:
        """Raises UserNotFound, NotThereYet, AtHomeElsewhere, WasMoving, EntryDamaged, and what `point` raises."""
        async with self._readers:
            point = await self.account_at(user_id, moment)
            balances = await self.held(user_id, point)
            # A moving user takes everything along: a user with money is here, or is departing.
            nothing = not any(balance.total_minor for balance in balances.values())
            if nothing or await self.homes.departing(user_id, point):
                fold = await self.fold(Ref(Kind.ACCOUNT, user_id), point.position)
                if isinstance(fold.state, Account):
                    await self.homes.require_here(fold.state, fold.version, user_id, point, moment)
        return Balances(balances, point)

    async def account_at(self, user_id: UUID, moment: Moment) -> Point:
        """The point, if the user had an account here by then, even one that the user has left."""
        point = await self.point(moment)
        await self._began(user_id, point, moment, f"user {user_id}", UserNotFound(user_id=str(user_id)))
        return point

    async def held(self, user_id: UUID, point: Point) -> dict[str, Balance]:
        """The account's balances here, from the index. Raises EntryDamaged."""
        entries = await self.lookups.balances_at(user_id, point.position)
        sources = await self.lookups.rows_at([entry.position for entry, _ in entries])
        rows = {each.row.position: each for each in sources}
        for entry, before in entries:
            self.believed(entry, before, rows.get(entry.position))
        return {entry.currency: balance_after(entry) for entry, _ in entries}

    async def account(self, user_id: UUID, moment: Moment) -> Past[Account]:
        unknown = UserNotFound(user_id=str(user_id))
        past = await self._past(Ref(Kind.ACCOUNT, user_id), Account, moment, f"user {user_id}", unknown)
        await self.homes.require_here(past.state, past.stream_version, user_id, past.point, moment)
        return past

    async def asset(self, asset_id: UUID, moment: Moment) -> Past[Asset]:
        unknown = AssetNotFound(asset_id=str(asset_id), cell=self.cell)
        return await self._past(Ref(Kind.ASSET, asset_id), Asset, moment, f"asset {asset_id}", unknown)

    async def auction(self, auction_id: UUID, moment: Moment) -> Past[Auction]:
        unknown = AuctionNotFound(auction_id=str(auction_id), cell=self.cell)
        return await self._past(Ref(Kind.AUCTION, auction_id), Auction, moment, f"auction {auction_id}", unknown)

    async def saga(self, saga_id: UUID, moment: Moment) -> Past[Saga]:
        unknown = SagaNotFound(saga_id=str(saga_id), cell=self.cell)
        return await self._past(Ref(Kind.SAGA, saga_id), Saga, moment, f"saga {saga_id}", unknown)

    async def _past(self, ref: Ref, kind: type[S], moment: Moment, what: str, unknown: Refused) -> Past[S]:
        async with self._readers:
            point = await self.point(moment)
            await self._began(ref.id, point, moment, what, unknown)
            fold = await self.fold(ref, point.position)
        if not isinstance(fold.state, kind):
            raise unknown
        return Past(cast("S", fold.state), fold.version, point, fold.events_read, fold.snapshot_version)

    async def _began(self, aggregate_id: UUID, point: Point, moment: Moment, what: str, unknown: Refused) -> None:
        first = await self.lookups.stream_begins(aggregate_id)
        if first is None:
            raise await self.placed(unknown) if isinstance(unknown, UserNotFound) else unknown
        if first > point.position:
            await self.homes.require_no_arrival(first, aggregate_id, point, moment)
            raise NotThereYet(what=what, position=point.position, cell=self.cell, first_position=first)

    async def events_of(self, aggregate_id: UUID, point: Point, limit: int) -> list[EventRow]:
        """The first events of the stream, up to the point. Raises EventDamaged."""
        rows, _ = await self.lookups.stream_from(aggregate_id, version=1, until=point.position, limit=limit)
        return [self.intact(each) for each in rows]

    async def versions(self, aggregate_id: UUID, first: int, last: int) -> list[EventRow]:
        """The events of the stream with these versions. Raises EventDamaged, LogIncomplete."""
        count = last - first + 1
        rows, _ = await self.lookups.stream_from(aggregate_id, version=first, until=POSITION_MAX, limit=count)
        if len(rows) != count:
            raise self.incomplete(f"a version of {first} to {last} of {aggregate_id}")
        return [self.intact(each) for each in rows]

    # --- folding ----------------------------------------------------------------------------------------------------

    async def fold(self, ref: Ref, position: int, *, snapshots: bool = True) -> Fold:
        """The state after the stream's last event at or before `position`; without snapshots, from the first event on.

        Makes the snapshots that are due on the way, so that later reads are shorter.

        Raises EventDamaged, LogIncomplete: the stream cannot be trusted from there on.
        """
        fold = await self.begun(ref, position) if snapshots else Fold()
        kept = fold.version
        async for each in self.events_after(ref, fold.version, position):
            self.step(fold, ref, each)
            if snapshots and may_be_due(fold.version):
                kept = await self._keep(fold, ref, each.row, kept)
        return fold

    async def _keep(self, fold: Fold, ref: Ref, row: EventRow, last_version: int) -> int:
        """Makes a snapshot if one is due and missing; returns the version of the last one."""
        if fold.state is None:
            return last_version
        state, leaf = codec.encode_state(fold.state), bytes(row.leaf_hash)
        if not is_due(fold.version, last_version, len(state)):
            return last_version
        snapshot = Snapshot(ref.id, row.position, fold.version, ref.kind, state, leaf, b"")
        await self.lookups.put(self.sealed(snapshot))
        return fold.version

    def sealed(self, snapshot: Snapshot) -> Snapshot:
        return snapshot._replace(seal=self.key.seal(snapshot))

    async def begun(self, ref: Ref, position: int) -> Fold:
        """The state of the last snapshot at or before `position`, or none."""
        while (snapshot := await self.lookups.snapshot_at(ref.id, position)) is not None:
            if snapshot.kind is not ref.kind:
                return Fold()
            if self.key.sealed(snapshot):
                state = codec.decode_state(ref.kind, snapshot.state)
                return Fold(state, snapshot.stream_version, 0, snapshot.stream_version)
            log.critical("snapshot_damaged", cell=self.cell, aggregate_id=str(ref.id), position=snapshot.position)
            position = snapshot.position - 1
        return Fold()

    async def events_after(self, ref: Ref, version: int, until: int) -> AsyncIterator[Checked]:
        more = True
        while more:
            rows, more = await self.lookups.stream_from(ref.id, version=version + 1, until=until, limit=PAGE)
            for each in rows:
                yield each
            version += len(rows)

    def step(self, fold: Fold, ref: Ref, each: Checked) -> None:
        row = self.intact(each)
        if row.stream_version != fold.version + 1:
            raise self.incomplete(f"version {fold.version + 1} of {ref.kind} {ref.id}")
        event = each.event or codec.event_of(row)
        # Ids are looked up by kind: the id of an asset does not find an auction.
        if event.kind is ref.kind:
            try:
                fold.state = evolve(fold.state, event, row.event_id)
            except UNREADABLE as error:
                raise self._damaged(row, f"it cannot follow the events before it: {error!r}") from error
        fold.version, fold.events_read = row.stream_version, fold.events_read + 1

    # --- what is believed -------------------------------------------------------------------------------------------

    def intact(self, each: Checked) -> EventRow:
        if each.problem:
            raise self._damaged(each.row, each.problem)
        return each.row

    def _damaged(self, row: EventRow, problem: str) -> EventDamaged:
        log.critical(
            "event_damaged", cell=self.cell, position=row.position, event_id=str(row.event_id), problem=problem
        )
        self.damage[EventDamaged.reason] += 1
        return EventDamaged(event_id=str(row.event_id), position=row.position, cell=self.cell, problem=problem)

    def believed(self, entry: AccountEntryRow, before: AccountEntryRow | None, source: Checked | None) -> None:
        """Raises unless the entry follows from its event and the entry before."""
        if source is None:
            raise self.incomplete(f"position {entry.position}")
        problem = entry_problem(entry, before, self.intact(source))
        if not problem:
            return
        log.critical("entry_damaged", cell=self.cell, position=entry.position, problem=problem)
        self.damage[EntryDamaged.reason] += 1
        raise EntryDamaged(account_id=str(entry.account_id), position=entry.position, cell=self.cell, problem=problem)

    def incomplete(self, where: str) -> LogIncomplete:
        log.critical("log_incomplete", cell=self.cell, problem=where)
        self.damage[LogIncomplete.reason] += 1
        return LogIncomplete(cell=self.cell, where=where)


def balance_after(entry: AccountEntryRow) -> Balance:
    return Balance(
        available_minor=entry.available_after, reserved_minor=entry.reserved_after, pending_minor=entry.pending_after
    )


def entry_problem(entry: AccountEntryRow, before: AccountEntryRow | None, row: EventRow) -> str:
    """The problem of an entry, compared with its event and the entry before it; empty if there is none."""
    changes = entry[3:6]
    said = changes_of(row, entry.account_id, entry.currency)
    if changes != said:
        return f"it says that the buckets moved by {changes}, its event says {said}"
    had = before[6:9] if before is not None else (0, 0, 0)
    comes_to = tuple(have + change for have, change in zip(had, changes, strict=True))
    if entry[6:9] != comes_to:
        return f"it says that the buckets hold {entry[6:9]}, the entry before it and its change come to {comes_to}"
    return ""


def changes_of(row: EventRow, account_id: UUID, currency: str) -> tuple[int, int, int]:
    """The changes of the account's buckets by the event's postings: available, reserved, pending."""
    moved = {"available": 0, "reserved": 0, "pending": 0}
    owner = f"users/{account_id}/"
    for line in codec.postings_of(row):
        if line.account.startswith(owner) and line.currency == currency:
            moved[line.account.removeprefix(owner)] += line.amount_minor
    return moved["available"], moved["reserved"], moved["pending"]
