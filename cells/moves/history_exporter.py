"""Copies a moving user's data: the history while the user is still served, the rest at the departure.

So neither the time without service nor the size of a call grows with the history: parts are bounded by bytes. The new
home reports how much it holds, and copying resumes from there, whichever process of either cell does it.
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from cells.domain.account.account import Account
from cells.domain.account.balance import EarlierHome, MoveCommand
from cells.domain.moves.commands import ArriveUser
from cells.domain.moves.refusals import MoveExpired, UserHasFlows
from cells.domain.record import replace
from cells.domain.refusals import Refused
from cells.domain.sagas.definition import SagaKind
from cells.domain.sagas.saga import TERMINAL, Saga, SagaState
from cells.domain.sagas.saga_events import MoveFacts
from cells.domain.values import Kind, Ref
from cells.encoding import codec
from cells.moves.user_bundle import MovedEvent, UserBundle
from cells.requests import CommandKey
from cells.store.outcomes import OutcomePlace, by_key, in_progress, outcome_place, row_for
from cells.store.ports import Clock, EventRow, OutcomeRow, Peers, PeerUnknown, SagaFilter, SagaPlace, Store

# Items per read.
ITEMS_MAX = 500
# Bytes per call, well below the bound of a call. A single event may be larger, and is then sent alone.
PART_BYTES = 400_000
# The size of an event or outcome without its texts.
ITEM_BYTES = 400
BRING_TIMEOUT_S = 5.0
# How long to wait for a cell to acknowledge that a move is called off.
CALL_OFF_TIMEOUT_S = 1.0
# How long one attempt copies before it checks whether the saga was paused or called off.
SLICE_S = 1.0
# Each search for outcomes overlaps the last one by this much: outcomes are stored shortly after they are decided.
SINCE = timedelta(seconds=5)
PAGE = 1_000
RUNNING = tuple(state for state in SagaState if state not in TERMINAL)
# Flows that a user begins here, and whose end is reported to the user here: the fact that names the user.
OWN_FLOWS = {SagaKind.REMOTE_BID: "bidder_id", SagaKind.TRANSFER: "from_user_id"}


class CopyProgress(NamedTuple):
    """How much of a user's history the new home has, and its total when last counted."""

    events: int
    events_total: int
    # Sent by this process.
    size_bytes: int


NOT_BEGUN = CopyProgress(0, 0, 0)


@dataclass(slots=True, kw_only=True)
class Copying:
    """This process's progress with one move. A new process reads again what it must, and sends only what is missing."""

    facts: MoveFacts
    saga_id: UUID
    # When an item was last sent.
    progress_ms: int
    progress: CopyProgress = NOT_BEGUN
    # Cell -> how many of the account's events there the new home holds; None: ask the new home.
    held: dict[str, int] | None = None
    # The version up to which the account's stream here was read, with the outcomes of its commands.
    version: int = 0
    # For outcomes that no event of the stream names: where to continue reading, and which of them are old.
    outcomes_after: OutcomePlace | None = None
    outcomes_since: datetime | None = None
    outcomes_look: datetime | None = None
    # Commands that were in progress when they were read.
    open: set[CommandKey] = field(default_factory=set)


@dataclass(slots=True, kw_only=True)
class HistoryExporter:
    cell: str
    store: Store
    peers: Peers
    clock: Clock
    # A move is called off after this long without a copied item.
    valid_ms: int = 10_000
    _copying: dict[UUID, Copying] = field(default_factory=dict)

    async def copy(self, saga_id: UUID, facts: MoveFacts) -> bool:
        """Copies for SLICE_S. Returns whether the rest fits into one page.

        Raises MoveExpired if nothing could be sent for `valid_ms`, and otherwise what `Peers.bring` raises.
        """
        copying, until_s = self._of(saga_id, facts), self.clock.monotonic_s() + SLICE_S
        total = await self._total(facts.user_id, facts.to_cell)
        copying.progress = copying.progress._replace(events_total=total)
        try:
            while await self._copy_some(copying):
                if self.clock.monotonic_s() >= until_s:
                    return False
        except (PeerUnknown, Refused) as error:
            now_ms, valid_until_ms = self.clock.wall_ms(), copying.progress_ms + self.valid_ms
            if now_ms >= valid_until_ms:
                raise MoveExpired(valid_until_ms=valid_until_ms, now_ms=now_ms) from error
            raise
        return True

    def progress(self, saga_id: UUID) -> CopyProgress | None:
        """As far as this process knows."""
        copying = self._copying.get(saga_id)
        return copying.progress if copying is not None else None

    async def _total(self, user_id: UUID, to_cell: str) -> int:
        """The amount to copy at present: the user keeps adding to it."""
        ref = Ref(Kind.ACCOUNT, user_id)
        account = (await self.store.load([ref])).get(ref)
        earlier = sum(events for cell, events in (await self.store.held(user_id)).items() if cell != to_cell)
        return earlier + (account.stream_version if account is not None else 0)

    async def before_departure(self, saga_id: UUID, facts: MoveFacts) -> None:
        """Raises UserHasFlows, and what `bring` raises: the user then stays a little longer."""
        await self._require_no_flows(facts.user_id)
        await self._copy_rest(saga_id, facts)

    async def with_contents(self, saga_id: UUID, facts: MoveFacts, action: ArriveUser) -> ArriveUser:
        """The arrival with everything that has departed. Raises what `bring` raises."""
        await self._copy_rest(saga_id, facts)
        ref = Ref(Kind.ACCOUNT, facts.user_id)
        account, version = (await self.store.load([ref]))[ref]
        if not isinstance(account, Account) or account.move is None:
            raise LookupError(f"user {facts.user_id} is not moving")
        here = EarlierHome(self.cell, account.home_epoch, version)
        return replace(
            action,
            balances=account.move.balances,
            holds=account.move.holds,
            earlier_homes=(*account.earlier_homes, here),
        )

    async def with_beginning(self, saga_id: UUID, facts: MoveFacts, action: ArriveUser) -> ArriveUser:
        """The arrival with the command that requested or called off the move: it may have been executed already."""
        rows = await self.store.outcomes([facts.command_id])
        begun_by = next((MoveCommand(row.principal, *row[:2]) for row in rows if row.saga_id == saga_id), None)
        return replace(action, begun_by=begun_by)

    async def call_off(self, saga_id: UUID, facts: MoveFacts) -> None:
        """Tells the other cell to drop the copies. A cell that cannot be reached drops them itself, later."""
        self.forget(saga_id)
        bundle = UserBundle(saga_id=saga_id, user_id=facts.user_id, called_off=True)
        with suppress(PeerUnknown, Refused):
            await self.peers.bring(facts.to_cell, bundle, timeout_s=CALL_OFF_TIMEOUT_S)

    def forget(self, saga_id: UUID) -> None:
        """The user has arrived."""
        self._copying.pop(saga_id, None)

    async def _require_no_flows(self, user_id: UUID) -> None:
        """The user can begin no flow once the move is announced: if there is none now, there will be none."""
        for kind, beginner in OWN_FLOWS.items():
            async for facts in self._unfinished(kind):
                if getattr(facts, beginner) == user_id:
                    raise UserHasFlows(user_id=str(user_id))

    async def _unfinished(self, kind: SagaKind) -> "AsyncIterator[object]":
        wanted, after = SagaFilter(states=RUNNING, kind=kind), None
        while True:
            page = await self.store.list_sagas(wanted, after=after, limit=PAGE)
            for saga_id, (saga, _) in page:
                if isinstance(saga, Saga):
                    yield saga.facts
                    after = SagaPlace(saga.started_ms, saga_id)
            if len(page) < PAGE:
                return

    def _of(self, saga_id: UUID, facts: MoveFacts) -> Copying:
        if saga_id not in self._copying:
            self._copying[saga_id] = Copying(facts=facts, saga_id=saga_id, progress_ms=self.clock.wall_ms())
        return self._copying[saga_id]

    async def _copy_rest(self, saga_id: UUID, facts: MoveFacts) -> None:
        copying = self._of(saga_id, facts)
        while await self._copy_some(copying):
            pass
        await self._bring_open(copying)

    async def _copy_some(self, copying: Copying) -> bool:
        """Copies the next missing page: earlier homes, then the stream here, then outcomes. False: it was the last."""
        try:
            held = await self._held(copying)
            more = await self._earlier_page(copying, held) or await self._own_page(copying, held)
            more = more or await self._outcomes_page(copying)
        except BaseException:
            # Only the other cell knows which items arrived.
            copying.held = None
            raise
        copying.progress_ms = self.clock.wall_ms()
        copying.progress = copying.progress._replace(events=sum(held.values()))
        return more

    async def _held(self, copying: Copying) -> dict[str, int]:
        if copying.held is None:
            nothing = UserBundle(saga_id=copying.saga_id, user_id=copying.facts.user_id)
            copying.held = await self.peers.bring(copying.facts.to_cell, nothing, timeout_s=BRING_TIMEOUT_S)
            # If the move was called off there, the other cell has dropped the copies.
            copying.version = min(copying.version, copying.held.get(self.cell, 0))
        return copying.held

    async def _earlier_page(self, copying: Copying, held: dict[str, int]) -> bool:
        """Copies what the user brought here from earlier homes. Returns whether there was any."""
        user_id, to_cell = copying.facts.user_id, copying.facts.to_cell
        for cell, known in sorted((await self.store.held(user_id)).items()):
            if cell != to_cell and held.get(cell, 0) < known:
                after = held.get(cell, 0)
                page = await self.store.moved_stream(user_id, cell, after_version=after, limit=ITEMS_MAX)
                await self._bring(copying, page, [])
                held[cell] = page[-1].row.stream_version
                return True
        return False

    async def _own_page(self, copying: Copying, held: dict[str, int]) -> bool:
        """Copies a page of the account's stream here, with its commands' outcomes. Returns whether there is more."""
        user_id, known = copying.facts.user_id, held.get(self.cell, 0)
        rows = await self.store.stream(user_id, after_version=copying.version, limit=ITEMS_MAX)
        if rows:
            events = [MovedEvent(self.cell, row) for row in rows if row.stream_version > known]
            # Commands of users who paid this one stay.
            own = {codec.command_of(row) for row in rows if row.user_id == user_id}
            await self._bring(copying, events, await self._outcomes(own, user_id))
            copying.version = rows[-1].stream_version
            held[self.cell] = max(known, copying.version)
        return len(rows) == ITEMS_MAX

    async def _outcomes(self, keys: Iterable[CommandKey], user_id: UUID) -> list[OutcomeRow]:
        ids = sorted({command_id for _, command_id in keys})
        known = by_key(await self.store.outcomes(ids)) if ids else {}
        found = {key: row_for(key, user_id, known) for key in keys}
        # The sender of an outcome stored without one is in its events.
        return [row._replace(principal=key[0]) for key, row in sorted(found.items()) if row is not None]

    async def _outcomes_page(self, copying: Copying) -> bool:
        """Copies outcomes that no event of the account names, mostly refusals. Returns whether there are more."""
        copying.outcomes_look = copying.outcomes_look or self.clock.wall()
        page = await self.store.outcomes_of(
            copying.facts.user_id, after=copying.outcomes_after, limit=ITEMS_MAX, since=copying.outcomes_since
        )
        await self._bring(copying, [], page)
        if len(page) == ITEMS_MAX:
            copying.outcomes_after = outcome_place(page[-1])
            return True
        copying.outcomes_after, copying.outcomes_since = None, copying.outcomes_look - SINCE
        copying.outcomes_look = None
        return False

    async def _bring_open(self, copying: Copying) -> None:
        """Copies outcomes that were in progress when read. They have ended by now: users depart only after that."""
        if copying.open:
            keys = frozenset(copying.open)
            copying.open.clear()
            try:
                await self._bring(copying, [], await self._outcomes(keys, copying.facts.user_id))
            except BaseException:
                copying.open |= keys
                raise

    async def _bring(self, copying: Copying, events: Sequence[MovedEvent], outcomes: Sequence[OutcomeRow]) -> None:
        ended = []
        for row in outcomes:
            if in_progress(row):
                copying.open.add((row.principal, row.command_id))
            else:
                ended.append(row._replace(cell=row.cell or self.cell))
        for items, size_bytes in parts([*events, *ended]):
            part = UserBundle(
                saga_id=copying.saga_id,
                user_id=copying.facts.user_id,
                events=[item for item in items if isinstance(item, MovedEvent)],
                outcomes=[item for item in items if isinstance(item, OutcomeRow)],
            )
            await self.peers.bring(copying.facts.to_cell, part, timeout_s=BRING_TIMEOUT_S)
            copying.progress = copying.progress._replace(size_bytes=copying.progress.size_bytes + size_bytes)


def parts(items: Iterable[MovedEvent | OutcomeRow]) -> Iterator[tuple[list[MovedEvent | OutcomeRow], int]]:
    """Splits the items into calls, in order, each with its size: at most PART_BYTES, or a single item."""
    part, size_bytes = list[MovedEvent | OutcomeRow](), 0
    for item in items:
        item_bytes = _size_bytes(item)
        if part and size_bytes + item_bytes > PART_BYTES:
            yield part, size_bytes
            part, size_bytes = [], 0
        part.append(item)
        size_bytes += item_bytes
    if part:
        yield part, size_bytes


def _size_bytes(item: MovedEvent | OutcomeRow) -> int:
    row = item.row if isinstance(item, MovedEvent) else item
    texts = (row.payload, row.metadata, row.vector_clock) if isinstance(row, EventRow) else (row.outcome,)
    return ITEM_BYTES + sum(len(text) if text.isascii() else len(text.encode()) for text in texts)
