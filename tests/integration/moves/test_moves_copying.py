"""A long history is copied while the user is served as ever; and what is copied counts from the arrival on."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import asyncpg
import pytest

from cells.domain.account.balance import EarlierHome
from cells.domain.commands import CompensateSaga, Deposit, Transfer
from cells.domain.events import Deposited
from cells.domain.moves.events import AccountArrived
from cells.domain.moves.refusals import BaggageGap, MoveExpired
from cells.domain.refusals import BalanceOverflow, ExternalReferenceUsed, Refused
from cells.domain.sagas.saga_refusals import CalledOff
from cells.domain.values import Kind, Money, Ref, reference_ref
from cells.moves import history_exporter
from cells.moves.user_bundle import HistoryCopy, MovedEvent, UserBundle
from cells.store.ports import Batch, OutcomeRow, PeerUnknown
from server.wire.moves import baggage_to_proto
from tests.doubles.store import MemoryStore
from tests.integration.database import ask, connected, opened
from tests.integration.moves.moves_rig import allow_ms, do, history_exporter_of, move, until_logged
from tests.integration.rows import event_row, outcome_row
from tests.integration.store.store_conformance import append_all
from tests.local_cells import DirectPeers, available, deposit, open_user, until, until_async
from tests.saga_world import AWAY, HERE, THIRD, World

if TYPE_CHECKING:
    from cells.moves.history_exporter import CopyProgress

EVENTS = 60
CENT = Money("USD", 1)
CALL_BYTES_MAX = 1_048_576


class Line:
    """What is brought, part by part; each waits for leave while `held`."""

    def __init__(self, patch: pytest.MonkeyPatch, *, pause_s: float = 0.0) -> None:
        self.brought: list[UserBundle] = []
        self.leave = asyncio.Event()
        self.leave.set()
        self.fails_after: int | None = None
        bring = DirectPeers.bring

        async def watched(peers: DirectPeers, cell: str, bundle: UserBundle, *, timeout_s: float) -> dict[str, int]:
            if self.fails_after is not None and len(self.brought) >= self.fails_after:
                raise PeerUnknown(f"{cell}: no answer")
            await asyncio.sleep(pause_s)
            await self.leave.wait()
            self.brought.append(bundle)
            return await bring(peers, cell, bundle, timeout_s=timeout_s)

        patch.setattr(DirectPeers, "bring", watched)

    @property
    def events(self) -> int:
        return sum(len(bundle.events) for bundle in self.brought)


async def user_of_many(town: World, events: int = EVENTS) -> UUID:
    ann = await open_user(town.cells[HERE], 1_000, town.directory)
    for _ in range(events):
        await do(town, HERE, deposit(ann, 1), ann)
    return ann


def event_types(town: World, cell: str, user: UUID) -> list[str]:
    return [row.event_type for row in town.stores[cell].log if row.aggregate_id == user]


async def test_an_arrival_makes_as_much_however_long_the_history(town: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """References and legs are found in the copy: its length and its last link are all that the arrival says of it."""
    written: list[tuple[int, int]] = []
    write = MemoryStore._write

    def watched(store: MemoryStore, batch: Batch) -> None:
        if any(row.event_type == "ACCOUNT_ARRIVED" for row in batch.events):
            rows = len(batch.events) + len(batch.legs) + len(batch.references) + len(batch.outcomes)
            written.append((rows, sum(len(row.payload) for row in batch.events)))
        write(store, batch)

    monkeypatch.setattr(MemoryStore, "_write", watched)
    for events in (1, EVENTS):
        ann, bob = await user_of_many(town, events), await open_user(town.cells[THIRD], 1_000, town.directory)
        for _ in range(events // 10):
            await do(town, THIRD, Transfer(from_user_id=bob, to_user_id=ann, amount=CENT), bob)
        await move(town, ann, AWAY)
    (rows, payload_bytes), (later_rows, later_bytes) = written
    assert rows == later_rows < 5
    # What differs are digits of amounts and counts.
    assert abs(payload_bytes - later_bytes) < 30


async def test_a_reference_that_was_new_before_the_user_came_back_is_looked_for_again(town: World) -> None:
    """Not found once, it is remembered as not used up; the arrival forgets that."""
    ann = await open_user(town.cells[AWAY], 0, town.directory)
    await move(town, ann, HERE, at=AWAY)
    beyond = Deposit(user_id=ann, amount=Money("USD", 2**62), external_reference="bank-1")
    with pytest.raises(BalanceOverflow):
        await do(town, HERE, beyond, ann)
    await move(town, ann, AWAY)
    again = deposit(ann, 5, reference="bank-1")
    await do(town, AWAY, again, ann)
    await move(town, ann, HERE, at=AWAY)
    with pytest.raises(ExternalReferenceUsed):
        await do(town, HERE, again, ann)


async def test_a_copy_without_marks_does_not_arrive(town: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of an older version has brought some of it: the move is called off, and the next one copies anew."""
    ann, copies = await user_of_many(town, 3), MemoryStore.copies

    async def unmarked(store: MemoryStore, user_id: UUID) -> dict[str, HistoryCopy]:
        return {cell: copy._replace(marked=False) for cell, copy in (await copies(store, user_id)).items()}

    allow_ms(town, 300)
    with monkeypatch.context() as patch:
        patch.setattr(MemoryStore, "copies", unmarked)
        with pytest.raises(Refused):
            await move(town, ann, AWAY)
    await town.cells[AWAY].user_import.sweep()
    assert not town.stores[AWAY].moved[ann]
    await move(town, ann, AWAY)


async def test_copying_may_take_longer_than_the_user_may_be_kept_waiting(
    town: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline is one of the time from the close on. While it is copied the user begins what they like."""
    monkeypatch.setattr(history_exporter, "ITEMS_MAX", 4)
    monkeypatch.setattr(history_exporter, "SLICE_S", 0.1)
    allow_ms(town, 400)
    ann = await user_of_many(town)
    bob = await open_user(town.cells[THIRD], 0, town.directory)
    line = Line(monkeypatch, pause_s=0.05)
    moving = asyncio.create_task(move(town, ann, AWAY))
    await until(lambda: line.events > EVENTS // 2)
    pay = Transfer(from_user_id=ann, to_user_id=bob, amount=Money("USD", 100))
    await do(town, HERE, pay, ann)
    assert "ACCOUNT_FLOWS_STOPPED" not in event_types(town, HERE, ann)
    saga = next(run for run in town.cells[HERE].engine.in_flight.values() if run.saga.kind == "MOVE")
    seen: list[CopyProgress] = []

    def advances() -> bool:
        if saga.copied is not None:
            seen.append(saga.copied)
        return len({each.events for each in seen}) > 2

    await until(advances)
    assert seen == sorted(seen)
    assert seen[-1].events <= seen[-1].events_total
    assert (saga.attempts, (await moving).result.cell) == (0, AWAY)
    assert await available(town.cells[AWAY], ann) == 1_000 + EVENTS - 100
    # What is left for the time between is a page, not the history.
    types = event_types(town, HERE, ann)
    assert types.index("ACCOUNT_FLOWS_STOPPED") > EVENTS


async def test_copying_goes_on_where_it_stopped(town: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though another process of the old home goes on: the new home knows what it has."""
    monkeypatch.setattr(history_exporter, "ITEMS_MAX", 4)
    ann = await user_of_many(town)
    line = Line(monkeypatch)
    line.fails_after = 10
    moving = asyncio.create_task(move(town, ann, AWAY))
    await until(lambda: len(line.brought) == 10)
    before = line.events
    assert before > 4
    moving.cancel()
    await town.step_down(HERE)
    line.fails_after = None
    await town.lead(HERE)
    await until_logged(town, AWAY, "ACCOUNT_ARRIVED")
    held = (await town.stores[AWAY].held(ann))[HERE]
    assert line.events <= held + 4


async def test_a_cell_that_takes_nothing_ends_the_move(town: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much was copied before."""
    monkeypatch.setattr(history_exporter, "ITEMS_MAX", 4)
    history_exporter_of(town).valid_ms = 300
    ann = await user_of_many(town)
    line = Line(monkeypatch)
    line.fails_after = 10
    with pytest.raises(MoveExpired):
        await move(town, ann, AWAY)
    assert (await town.cells[HERE].account(ann)).state.move is None


async def test_what_is_called_off_is_removed(town: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an operator, while it is copied: of the user nothing is left in the other cell, outcomes included."""
    monkeypatch.setattr(history_exporter, "ITEMS_MAX", 4)
    monkeypatch.setattr(history_exporter, "SLICE_S", 0.05)
    town.cells[AWAY].user_import.background.every_s = 0.05
    ann = await user_of_many(town)
    line = Line(monkeypatch, pause_s=0.02)
    moving = asyncio.create_task(move(town, ann, AWAY))
    await until(lambda: line.events > 8)
    saga_id = next(saga_id for saga_id in town.cells[HERE].engine.in_flight)
    await do(town, HERE, CompensateSaga(saga_id=saga_id, note="not today"), ann)
    with pytest.raises(CalledOff):
        await moving
    assert (await town.cells[HERE].account(ann)).state.move is None
    assert town.stores[AWAY].moved[ann]
    await town.cells[AWAY].user_import.sweep()
    assert not town.stores[AWAY].moved[ann]
    assert not [row for row in town.stores[AWAY].all_outcomes() if row.user_id == ann]
    # And the next one is whole.
    await move(town, ann, AWAY)
    assert await available(town.cells[AWAY], ann) == 1_000 + EVENTS
    await town.cells[AWAY].user_import.sweep()
    assert len(town.stores[AWAY].moved[ann]) >= EVENTS


async def test_a_gap_is_refused(town: World) -> None:
    """Else the highest event would not say how many are here."""
    ann = uuid4()
    rows = [MovedEvent(HERE, event_row(at, aggregate_id=ann, stream_version=at)) for at in (1, 2, 4)]
    for wrong in (rows[1:], rows):
        with pytest.raises(BaggageGap):
            await town.stores[AWAY].stage(ann, wrong, [])
    await town.stores[AWAY].stage(ann, rows[:2], [])
    assert await town.stores[AWAY].held(ann) == {HERE: 2}


async def test_history_that_is_not_whole_keeps_the_user_at_home(town: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that got lost is missed by its number: nobody arrives without all that they have."""
    history_exporter_of(town).valid_ms = 700
    ann = await open_user(town.cells[HERE], 1_000, town.directory)
    stage = MemoryStore.stage

    async def lossy(
        store: MemoryStore, user_id: UUID, events: Sequence[MovedEvent], outcomes: Sequence[OutcomeRow]
    ) -> None:
        await stage(store, user_id, events[1:], outcomes)

    monkeypatch.setattr(MemoryStore, "stage", lossy)
    with pytest.raises(MoveExpired):
        await move(town, ann, AWAY)
    assert await available(town.cells[HERE], ann) == 1_000


def test_parts_are_bounded_by_bytes() -> None:
    """Whatever is in them: no call is larger than what the other cell takes, and nothing is left out."""
    for text, count in (("x" * 250_000, 12), ("é" * 100_000, 9), ("\U0001f600" * 60_000, 9), ("r", 2_000)):
        event = Deposited(currency="USD", amount_minor=1, external_reference=text)
        rows = [MovedEvent(HERE, event_row(at, event, stream_version=at)) for at in range(1, count + 1)]
        outcomes = [outcome_row(outcome=f'{{"accepted":{{"at":"{at}"}}}}') for at in range(300)]
        found = [
            UserBundle(
                saga_id=uuid4(),
                user_id=uuid4(),
                events=[item for item in part if isinstance(item, MovedEvent)],
                outcomes=[item for item in part if isinstance(item, OutcomeRow)],
            )
            for part, _ in history_exporter.parts([*rows, *outcomes])
        ]
        assert [each for part in found for each in part.events] == rows
        assert [each for part in found for each in part.outcomes] == outcomes
        assert max(baggage_to_proto(part).ByteSize() for part in found) < CALL_BYTES_MAX * 3 // 4


async def test_staged_events_go_and_counted_ones_stay(cell_dsn: str) -> None:
    """In the database itself: by the arrival in the cell's own log, and for every role."""
    user, other = uuid4(), uuid4()
    async with opened(cell_dsn) as store:
        await store.claim()
        for each in (user, other):
            rows = [event_row(at, aggregate_id=each, stream_version=at) for at in range(1, 8)]
            brought = [MovedEvent("eu-west", row) for row in rows]
            outcomes = [outcome_row(user_id=each)._replace(cell="eu-west") for _ in range(5)]
            await store.stage(each, brought, outcomes)
        arrived = AccountArrived(
            saga_id=uuid4(), from_cell="eu-west", epoch=2, holds={}, earlier_homes=(EarlierHome("eu-west", 1, 5),)
        )
        await append_all(store, events=[event_row(1, arrived, aggregate_id=user, stream_version=1)])
        assert not await store.stale(idle_s=3_600, limit=9)
        assert not await store.drop_staged(user, idle_s=3_600, at_most=100)
        assert await store.held(user) == {"eu-west": 7}
        for each in (user, other):
            await store.give_up(each)
        assert set(await store.stale(idle_s=3_600, limit=9)) == {user, other}
        assert not await store.drop_staged(user, idle_s=3_600, at_most=100)
        assert await store.held(user) == {"eu-west": 5}
        assert await store.outcomes_of(user, after=None, limit=9)
        # From the end, so that what is left has no gap.
        assert await store.drop_staged(other, idle_s=3_600, at_most=3)
        assert await store.held(other) == {"eu-west": 4}
        assert await store.drop_staged(other, idle_s=3_600, at_most=4)
        assert await store.held(other) == {}
        # Outcomes neither go all at once.
        assert await store.drop_staged(other, idle_s=3_600, at_most=4)
        assert len(await store.outcomes_of(other, after=None, limit=9)) == 1
        assert not await store.drop_staged(other, idle_s=3_600, at_most=4)
        assert not await store.outcomes_of(other, after=None, limit=9)
        assert not await store.stale(idle_s=0, limit=9)
        async with store.reading() as connection:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute("DELETE FROM moved_events")
    async with connected(cell_dsn) as connection:
        with pytest.raises(asyncpg.RestrictViolationError):
            await connection.execute("DELETE FROM moved_events WHERE aggregate_id = $1 AND stream_version = 5", user)
        with pytest.raises(asyncpg.RestrictViolationError):
            await connection.execute("UPDATE moved_events SET cell = 'x'")


async def test_a_refusal_leaves_no_open_end(town: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transfer that was under way when its events were copied, and ended later, has its answer at the new home."""
    monkeypatch.setattr(history_exporter, "ITEMS_MAX", 4)
    ann = await user_of_many(town, 12)
    bob = await open_user(town.cells[THIRD], 0, town.directory)
    town.cable.cut.add(THIRD)
    paid = uuid4()
    pay = Transfer(from_user_id=ann, to_user_id=bob, amount=Money("USD", 100))
    paying = asyncio.create_task(do(town, HERE, pay, ann, command_id=paid))
    await until_logged(town, HERE, "REMOTE_TRANSFER_SENT")
    moving = asyncio.create_task(move(town, ann, AWAY))
    await until_logged(town, HERE, "ACCOUNT_FLOWS_STOPPED")
    town.cable.cut.clear()
    first, _ = await asyncio.gather(paying, moving)
    again = await do(town, AWAY, pay, ann, command_id=paid)
    assert (again.result, again.replayed) == (first.result, True)
    with pytest.raises(Refused):
        await town.cells[HERE].account(ann)


async def test_a_copy_takes_as_long_for_the_last_event_as_for_the_first(cell_dsn: str) -> None:
    """Plans are kept that were made while the table was empty: none of them may read the copy for each event of it."""
    user, rows_max = uuid4(), 8
    rows = [event_row(position, aggregate_id=user, stream_version=position) for position in range(1, 1_201)]
    leg = Ref(Kind.LEG, uuid4())
    async with opened(cell_dsn) as store:
        for first in range(0, len(rows), 100):
            await store.stage(user, [MovedEvent(HERE, row) for row in rows[first : first + 100]], ())
            await store.load([leg, reference_ref("deposit", "bank-1")])
            await store.copies(user)

    async def read() -> int:
        found = await ask(cell_dsn, "SELECT seq_tup_read + idx_tup_fetch, n_tup_ins FROM pg_stat_user_tables "
                          "WHERE relname = 'moved_events'")  # fmt: skip
        return int(found[0][0]) if found[0][1] == len(rows) else -1

    # Sessions tell what they have done when they end.
    await until_async(read, lambda found: found >= 0)
    assert await read() < rows_max * len(rows)
