"""Rows that somebody with the database's password has changed: whoever reads them is refused, and nobody else is."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from cells.audit.history import snapshots, snapshotter
from cells.audit.history.moments import Moment
from cells.audit.history.questions import History
from cells.audit.history.stream_verification import verify_stream
from cells.domain.audit.refusals import Damaged, EntryDamaged, EventDamaged, LogIncomplete
from cells.encoding import codec
from cells.requests import CaughtUp
from cells.store.ports import EventFilter
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.audit_rig import CELLS, Served, Town, town
from tests.integration.database import ask
from tests.local_cells import deposit, request, under_way, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEPOSITS = 12


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cells(cluster: EmbeddedPostgres, template: str) -> AsyncIterator[Town]:
    async with town(cluster, template, CELLS[0]) as cells:
        yield cells


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """`ann` and `ben` have had a dozen deposits of 1.00 each, in turns; `positions` are ann's."""

    served: Served
    ann: UUID
    ben: UUID
    positions: list[int]

    @property
    def history(self) -> History:
        return self.served.parts.audit.history

    @property
    def end(self) -> Moment:
        return Moment(position=self.positions[-1])

    async def change(self, table: str, change: str, position: int) -> None:
        statement = f"UPDATE {table} SET {change} WHERE position = $1"  # noqa: S608 - of this file
        await tampered(self.served.dsn, table, statement, position)

    async def available(self, user_id: UUID, moment: Moment) -> int:
        return (await self.history.balances(user_id, moment)).balances["USD"].available_minor

    async def folded(self, user_id: UUID, moment: Moment) -> int:
        return (await self.history.account(user_id, moment)).state.balance("USD").available_minor


async def tampered(dsn: str, table: str, statement: str, *arguments: object) -> None:
    await ask(dsn, f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    await ask(dsn, statement, *arguments)
    await ask(dsn, f"ALTER TABLE {table} ENABLE TRIGGER ALL")


@pytest_asyncio.fixture(loop_scope="module")
async def rig(cells: Town) -> Rig:
    served = cells.cells[CELLS[0]]
    ann, ben = await cells.user(CELLS[0]), await cells.user(CELLS[0])
    positions = []
    for _ in range(DEPOSITS):
        positions.append((await served.parts.cell.execute(request(deposit(ann)))).position)
        await served.parts.cell.execute(request(deposit(ben)))
    return Rig(served=served, ann=ann, ben=ben, positions=positions)


EVENTS = [
    "payload = jsonb_set(payload, '{amount_minor}', '\"1\"')",
    "payload = jsonb_set(payload, '{postings,0,amount_minor}', '\"1\"')",
    "payload = '[]'",
    "payload = jsonb_set(payload, '{x}', '0.5')",
    "event_type = 'MONEY_VANISHED'",
    "event_type = 'ACCOUNT_OPENED'",
    "metadata = '{}'",
    "metadata = jsonb_set(metadata, '{v}', '9')",
    "user_id = aggregate_id",
    "leaf_hash = ''",
]


async def test_a_changed_event_halts_its_stream_from_there_on_and_nothing_else(rig: Rig) -> None:
    """Whatever was changed in it: named by its position; before it, beside it and in the index all goes on."""
    place = 5
    position = rig.positions[place]
    for change in EVENTS:
        await ask(rig.served.dsn, "CREATE TABLE kept AS SELECT * FROM event_store WHERE position = $1", position)
        await rig.change("event_store", change, position)
        for look in (rig.folded(rig.ann, rig.end), rig.available(rig.ann, Moment(position=position))):
            with pytest.raises(EventDamaged) as caught:
                await look
            assert caught.value.facts["position"] == position, change
        assert await rig.folded(rig.ann, Moment(position=position - 1)) == 100 * place
        assert await rig.available(rig.ann, rig.end) == 100 * DEPOSITS
        assert await rig.folded(rig.ben, rig.end) == 100 * (DEPOSITS - 1)
        await rig.served.parts.cell.execute(request(deposit(rig.ben)))
        with pytest.raises(EventDamaged):
            await verify_stream(rig.served.parts.audit.history, rig.ann, None)
        await tampered(rig.served.dsn, "event_store", "DELETE FROM event_store WHERE position = $1", position)
        await tampered(rig.served.dsn, "event_store", "INSERT INTO event_store SELECT * FROM kept")
        await ask(rig.served.dsn, "DROP TABLE kept")
    assert await rig.folded(rig.ann, rig.end) == 100 * DEPOSITS


async def test_without_the_hashes_the_answer_would_be_wrong(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablation: a changed amount is a wrong balance, told as if nothing were."""
    await rig.change("event_store", EVENTS[0], rig.positions[5])
    monkeypatch.setattr(codec, "leaf_hash", lambda row: bytes(row.leaf_hash))
    assert await rig.folded(rig.ann, rig.end) == 100 * (DEPOSITS - 1) + 1


async def test_an_event_that_is_gone_is_missed(rig: Rig) -> None:
    """In its stream; and by a time around it, as far as that decides where the time lies."""
    position = rig.positions[5]
    [(stamp,)] = await ask(rig.served.dsn, "SELECT hlc_physical FROM event_store WHERE position = $1", position)
    await tampered(rig.served.dsn, "event_store", "DELETE FROM event_store WHERE position = $1", position)
    with pytest.raises(LogIncomplete, match=f"version {5 + 2} of account {rig.ann}"):
        await rig.folded(rig.ann, rig.end)
    with pytest.raises(LogIncomplete, match=f"position {position}"):
        await rig.available(rig.ann, Moment(position=position))
    with pytest.raises(LogIncomplete):
        await rig.available(rig.ann, Moment(time_ms=stamp))
    assert await rig.available(rig.ann, rig.end) == 100 * DEPOSITS


async def test_a_stamp_that_was_changed_moves_no_moment(rig: Rig) -> None:
    """Wherever the search by time comes past it: the right position, or a refusal."""
    dsn, position = rig.served.dsn, rig.positions[5]
    stamps = dict(await ask(dsn, "SELECT position, hlc_physical FROM event_store ORDER BY position"))
    for changed in (0, 2**46):
        await rig.change("event_store", f"hlc_physical = {changed}", position)
        right = 0
        for time_ms in sorted({*stamps.values()} - {max(stamps.values())}):
            try:
                found = (await rig.history.point(Moment(time_ms=time_ms))).position
            except Damaged:
                continue
            assert found == max(at for at, stamp in stamps.items() if stamp <= time_ms), time_ms
            right += 1
        assert right
        await rig.change("event_store", f"hlc_physical = {stamps[position]}", position)


ENTRIES = [
    "available_after = 1",
    "available_change = 1",
    "available_change = available_change + 5, available_after = available_after + 5",
    "pending_after = 7",
]


async def test_a_changed_entry_is_told_from_its_event_and_the_entry_before_it(rig: Rig) -> None:
    """The index is not believed for its own sake; the same from the events is still told."""
    for change in ENTRIES:
        await ask(
            rig.served.dsn, "CREATE TABLE kept AS SELECT * FROM account_entries WHERE position = $1", rig.positions[-1]
        )
        await rig.change("account_entries", change, rig.positions[-1])
        with pytest.raises(EntryDamaged) as caught:
            await rig.available(rig.ann, rig.end)
        assert caught.value.facts["position"] == rig.positions[-1]
        assert await rig.folded(rig.ann, rig.end) == 100 * DEPOSITS
        await tampered(
            rig.served.dsn, "account_entries", "DELETE FROM account_entries WHERE position = $1", rig.positions[-1]
        )
        await tampered(rig.served.dsn, "account_entries", "INSERT INTO account_entries SELECT * FROM kept")
        await ask(rig.served.dsn, "DROP TABLE kept")
    assert await rig.available(rig.ann, rig.end) == 100 * DEPOSITS


async def made(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots of every second event."""
    for module in (snapshots, snapshotter):
        monkeypatch.setattr(module, "SNAPSHOT_EVENTS", 2)
    monkeypatch.setattr(snapshots, "STATE_BYTES_PER_EVENT", 1_000_000)
    await ask(rig.served.dsn, "UPDATE snapshot_progress SET position = 0")
    while await rig.served.keeper.step():
        pass


async def test_a_changed_snapshot_is_passed_over_and_found_by_a_check(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer stays right, from an earlier one or from the events; a forged one with a right hash is found too."""
    await made(rig, monkeypatch)
    history = rig.served.parts.audit.history
    assert (await verify_stream(history, rig.ann, None)).problems == []
    last = "position = (SELECT max(position) FROM snapshots WHERE aggregate_id = $1) AND aggregate_id = $1"
    await ask(rig.served.dsn, f"UPDATE snapshots SET state = replace(state, '00', '99') WHERE {last}", rig.ann)  # noqa: S608
    assert await rig.folded(rig.ann, rig.end) == 100 * DEPOSITS
    [problem] = (await verify_stream(history, rig.ann, None)).problems
    assert "snapshot" in problem
    forged = f"UPDATE snapshots SET seal = sha256(leaf_hash || convert_to(state, 'UTF8')) WHERE {last}"  # noqa: S608
    await ask(rig.served.dsn, forged, rig.ann)
    assert (await verify_stream(history, rig.ann, None)).problems == [problem]


async def test_snapshots_stop_before_a_changed_event_and_go_on_for_others(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is made of what cannot be believed; those from before it keep what is after it from being read wrongly."""
    await rig.change("event_store", EVENTS[0], rig.positions[5])
    await made(rig, monkeypatch)
    kept = dict(
        await ask(rig.served.dsn, "SELECT aggregate_id, max(stream_version) FROM snapshots GROUP BY aggregate_id")
    )
    assert kept[rig.ann] == 6
    assert kept[rig.ben] > DEPOSITS - 2
    with pytest.raises(EventDamaged):
        await rig.folded(rig.ann, rig.end)


async def test_the_present_state_is_compared_with_the_events(rig: Rig) -> None:
    """A projection that was changed is found by replaying its stream."""
    await ask(
        rig.served.dsn,
        "UPDATE accounts SET state = jsonb_set(state::jsonb, '{balances,USD,available_minor}', '\"7\"') WHERE id = $1",
        rig.ann,
    )
    verification = await verify_stream(rig.served.parts.audit.history, rig.ann, None)
    assert verification.present_compared
    assert ["the state that the cell works with" in each for each in verification.problems] == [True]


async def test_a_subscriber_is_given_what_is_before_a_changed_event_and_then_told(rig: Rig) -> None:
    """What the log cannot hold ends the stream of whoever reads it; who follows another stream reads on."""
    cell, position = rig.served.parts.cell, rig.positions[5]
    await rig.change("event_store", "payload = jsonb_set(payload, '{x}', '0.5')", position)

    async def read(user_id: UUID) -> list[int]:
        found = []
        of_user = EventFilter(aggregate_id=user_id)
        async for item in cell.subscribe(from_position=1, event_filter=of_user):
            if isinstance(item, CaughtUp):
                break
            found.append(item.position)
        return found

    assert len(await read(rig.ben)) == DEPOSITS + 1
    given: list[int] = []

    async def read_on() -> None:
        of_ann = EventFilter(aggregate_id=rig.ann)
        async for item in cell.subscribe(from_position=rig.positions[0], event_filter=of_ann):
            assert not isinstance(item, CaughtUp)
            given.append(item.position)

    with pytest.raises(EventDamaged) as caught:
        await read_on()
    assert given == rig.positions[:5]
    assert caught.value.facts["position"] == rig.positions[4] + 1


async def test_damage_is_counted(rig: Rig) -> None:
    """For the alert: by the reason that the asker was told."""
    before = rig.history.damage["EVENT_DAMAGED"]
    await rig.change("event_store", EVENTS[0], rig.positions[5])
    with pytest.raises(EventDamaged):
        await rig.folded(rig.ann, rig.end)
    assert rig.history.damage["EVENT_DAMAGED"] == before + 1


async def test_a_moment_is_not_told_of_before_all_that_belongs_to_it_is_written(rig: Rig) -> None:
    """A deposit was decided, its commit takes its time: who asks for that moment waits, and is told of it."""
    cell, clock = rig.served.parts.cell, rig.served.parts.cell.time.clock
    blocker = await asyncpg.connect(rig.served.dsn)
    try:
        async with blocker.transaction():
            await blocker.execute("LOCK TABLE account_entries IN SHARE MODE")
            coming = asyncio.create_task(cell.execute(request(deposit(rig.ann))))
            await until(lambda: under_way(cell))
            decided_ms = cell.time.hlc.last.physical_ms
            await until(lambda: clock.wall_ms() > decided_ms + 1)
            asked = asyncio.create_task(rig.available(rig.ann, Moment(time_ms=decided_ms)))
            hasty = History(
                **{name: getattr(rig.history, name) for name in ("cell", "store", "time", "lookups", "placed")},
                deciding=set,
            )
            before = await hasty.balances(rig.ann, Moment(time_ms=decided_ms))
            assert not asked.done()
        await coming
        assert await asked == 100 * (DEPOSITS + 1)
        # Ablation: whoever does not wait is told of a past that changes afterwards.
        assert before.balances["USD"].available_minor == 100 * DEPOSITS
    finally:
        await blocker.close()
