"""Time travel on real cells: what there was is what the events up to then come to, whichever way it is asked."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from cellbook.v1 import saga_pb2, types_pb2
from cells.audit.history import snapshots, snapshotter
from cells.audit.history.moments import Moment, time_text
from cells.audit.history.questions import History, Past
from cells.audit.history.stream_verification import verify_stream
from cells.domain.auction.asset import Asset
from cells.domain.audit.refusals import NotThereYet
from cells.domain.refusals import Refused
from cells.domain.sagas.saga import Saga
from cells.domain.time.hlc import HybridLogicalClock, Stamp
from cells.domain.values import Kind
from cells.time.celltime import CellTime
from cells.time.clocks import SystemClock
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.audit_rig import CELLS, Served, Town, town
from tests.integration.books.past_rig import Truth, story, truth
from tests.integration.database import ask
from tests.integration.services_rig import AUDITOR
from tests.local_cells import deposit, request, until_async

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVERY = 4
SAMPLE, LOOKS = 10, 150


@dataclass(frozen=True, slots=True)
class Rig:
    town: Town
    users: list[UUID]
    # By cell. What the tests below add comes after it.
    truths: dict[str, Truth]

    @property
    def here(self) -> Served:
        return self.town.cells[CELLS[0]]

    @property
    def history(self) -> History:
        return self.here.parts.audit.history

    @property
    def truth(self) -> Truth:
        return self.truths[CELLS[0]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(cluster: EmbeddedPostgres, template: str) -> AsyncIterator[Rig]:
    async with town(cluster, template) as cells:
        users = await story(cells, seed=7)
        yield Rig(cells, users, {name: await truth(served.dsn) for name, served in cells.cells.items()})


async def state_at(history: History, kind: Kind, aggregate_id: UUID, moment: Moment) -> tuple[object, int] | None:
    """What history says; None: it was not there yet."""
    read: dict[Kind, Callable[[UUID, Moment], Awaitable[Past[Any]]]] = {
        Kind.ACCOUNT: history.account,
        Kind.ASSET: history.asset,
        Kind.AUCTION: history.auction,
        Kind.SAGA: history.saga,
    }
    try:
        past = await read[kind](aggregate_id, moment)
    except NotThereYet:
        return None
    return past.state, past.stream_version


async def compare(rig: Rig, seed: int) -> int:
    """Looks at every aggregate of every kind and cell at some positions; how many events were read for it."""
    rng, looks = random.Random(seed), 0
    for name, told in rig.truths.items():
        history = rig.town.cells[name].parts.audit.history
        for aggregate_id, kind in told.kinds.items():
            if kind not in {Kind.ACCOUNT, Kind.ASSET, Kind.AUCTION, Kind.SAGA}:
                continue
            for position in rng.choices(range(len(told.rows) + 1), k=SAMPLE):
                found = await state_at(history, kind, aggregate_id, Moment(position=position))
                assert found == told.state(aggregate_id, position), (name, kind, aggregate_id, position)
                looks += 1
    return looks


async def test_what_there_was_is_the_fold_of_the_events_up_to_then(rig: Rig) -> None:
    """Every aggregate of every kind in every cell, at positions from before its first event to the end of the log."""
    kinds = {kind for told in rig.truths.values() for kind in told.kinds.values()}
    assert kinds >= {Kind.ACCOUNT, Kind.ASSET, Kind.AUCTION, Kind.SAGA}
    assert await compare(rig, seed=1) > LOOKS


def _snapshots_often(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (snapshots, snapshotter):
        monkeypatch.setattr(module, "SNAPSHOT_EVENTS", EVERY)


async def test_snapshots_change_no_answer_and_save_the_reading(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same looks on top of snapshots, which were made from the events alone; few events are read for them."""
    _snapshots_often(monkeypatch)
    monkeypatch.setattr(snapshots, "STATE_BYTES_PER_EVENT", 1_000_000)
    for served in rig.town.cells.values():
        await ask(served.dsn, "UPDATE snapshot_progress SET position = 0")
        while await served.keeper.step():
            pass
    assert await compare(rig, seed=2) > LOOKS
    busiest = max(rig.truth.of(Kind.ACCOUNT), key=lambda each: rig.truth.state(each, len(rig.truth.rows))[1])  # type: ignore[index]
    past = await rig.history.account(busiest, Moment(position=len(rig.truth.rows)))
    assert past.stream_version > 3 * EVERY
    assert past.events_read < EVERY
    assert past.snapshot_version + past.events_read == past.stream_version
    verification = await verify_stream(rig.here.parts.audit.history, busiest, None)
    assert verification.problems == []
    assert verification.snapshots_compared >= 3
    assert verification.present_compared


async def test_snapshots_are_made_while_the_cell_leads(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asks for them: they follow the log, and go on where they were when another one led."""
    _snapshots_often(monkeypatch)
    monkeypatch.setattr(snapshotter, "POLL_S", 0.01)
    monkeypatch.setattr(snapshotter, "REST_IDLE", 0)
    await ask(rig.here.dsn, "DELETE FROM snapshots")
    await ask(rig.here.dsn, "UPDATE snapshot_progress SET position = 0")

    async def caught_up() -> bool:
        [(left,)] = await ask(rig.here.dsn, "SELECT h.position - p.position FROM head h, snapshot_progress p")
        return bool(left == 0)

    await rig.here.keeper.start()
    try:
        await until_async(caught_up)
        [(made,)] = await ask(rig.here.dsn, "SELECT count(*) FROM snapshots")
        assert made > 0
        await rig.here.parts.cell.execute(request(deposit(rig.users[0])))
        await until_async(caught_up)
    finally:
        await rig.here.keeper.stop()


async def test_the_first_question_leaves_what_later_ones_need(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no snapshot has been made yet, reading a stream makes those that are due; a large state has fewer."""
    _snapshots_often(monkeypatch)
    end = Moment(position=len(rig.truth.rows))
    busiest = max(rig.users, key=lambda each: len(rig.truth.balances(each, end.position or 0)))
    for bytes_per_event, kept in ((1_000_000, EVERY), (1, 0)):
        monkeypatch.setattr(snapshots, "STATE_BYTES_PER_EVENT", bytes_per_event)
        await ask(rig.here.dsn, "DELETE FROM snapshots")
        first, second = await rig.history.account(busiest, end), await rig.history.account(busiest, end)
        assert first.state == second.state
        assert first.events_read == first.stream_version > 2 * EVERY
        assert (second.events_read < EVERY) is bool(kept)


async def test_a_balance_is_what_the_postings_up_to_then_sum_to(rig: Rig) -> None:
    """Each user's buckets in each currency, after every tenth event, from the index of entries."""
    for position in range(0, len(rig.truth.rows) + 1, 10):
        for user_id in rig.users:
            if rig.truth.state(user_id, position) is None:
                continue
            past = await rig.history.balances(user_id, Moment(position=position))
            found = {
                code: (each.available_minor, each.reserved_minor, each.pending_minor)
                for code, each in past.balances.items()
            }
            assert found == rig.truth.balances(user_id, position), (user_id, position)


async def test_times_and_stamps_find_their_position(rig: Rig) -> None:
    """The last event at or before it, as the whole log has it; between events and before the first, too."""
    rows = rig.truth.rows
    stamps = [Stamp(row.hlc_physical, row.hlc_logical) for row in rows]
    for stamp in stamps[::7]:
        for wanted in (stamp, Stamp(stamp.physical_ms, stamp.logical + 1), Stamp(stamp.physical_ms - 1, 65_535)):
            point = await rig.history.point(Moment(stamp=wanted))
            assert point.position == sum(each <= wanted for each in stamps)
        for time_ms in (stamp.physical_ms, stamp.physical_ms - 1):
            point = await rig.history.point(Moment(time_ms=time_ms))
            assert point.position == sum(each.physical_ms <= time_ms for each in stamps)
            assert point.position == 0 or point.stamp == stamps[point.position - 1]
    assert (await rig.history.point(Moment(time_ms=0))).position == 0


async def test_the_trial_balance_is_the_sum_of_all_postings_and_zero(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without the sums that are kept on the way."""
    trial = rig.here.parts.audit.trial
    for _ in range(2):
        for position in range(0, len(rig.truth.rows) + 1, 23):
            found = dict((await trial.at(Moment(position=position))).sums)
            expected: dict[tuple[str, str], int] = {}
            for (account, currency), amount in rig.truth.sums(position).items():
                name = f"users/{account.split('/')[2]}" if account.startswith("users/") else account
                expected[name, currency] = expected.get((name, currency), 0) + amount
            assert found == {key: amount for key, amount in expected.items() if amount}
            for currency in {currency for _, currency in found}:
                assert sum(amount for (_, code), amount in found.items() if code == currency) == 0
        await trial.keep(len(rig.truth.rows) // 2)
    assert await ask(rig.here.dsn, "SELECT position FROM house_snapshots")


async def test_every_get_answers_of_then_over_the_wire(rig: Rig) -> None:
    """The same messages as of now, with the point that they are of; a saga's history ends there."""
    end = len(rig.truth.rows)
    for position in (end, end // 2):
        as_of = types_pb2.AsOf(position=position)
        for saga_id in rig.truth.of(Kind.SAGA):
            known = rig.truth.state(saga_id, position)
            if known is None:
                continue
            reply = await rig.here.ask("GetSaga", saga_id=saga_id, as_of=as_of, by=AUDITOR)
            assert isinstance(known[0], Saga)
            assert saga_pb2.SagaState.Name(reply.saga.state) == f"SAGA_STATE_{known[0].state}"
            assert [event.stream_version for event in reply.history] == list(range(1, known[1] + 1))
            assert reply.as_of.position == reply.token.position == position
        for asset_id in rig.truth.of(Kind.ASSET):
            known = rig.truth.state(asset_id, position)
            if known is not None:
                name = f"cells/{CELLS[0]}/assets/{asset_id}"
                asset = await rig.here.ask("GetAsset", name=name, as_of=as_of, by=AUDITOR)
                assert isinstance(known[0], Asset)
                assert (asset.asset.owner_user_id, asset.asset.stream_version) == (str(known[0].owner_id), known[1])
                assert asset.as_of.hlc.physical_ms == rig.truth.rows[position - 1].hlc_physical


async def test_the_pages_of_all_balances_are_of_one_moment(rig: Rig) -> None:
    """However the accounts move on between them; and each account and currency comes once."""
    end, token, found = len(rig.truth.rows), "", dict[tuple[str, str], tuple[int, int, int]]()
    while True:
        as_of = types_pb2.AsOf(position=end)
        page = await rig.here.ask("ListBalances", as_of=as_of, page_size=2, page_token=token, by=AUDITOR)
        assert page.as_of.position == end
        for each in page.balances:
            key = (each.user_id, each.balance.currency)
            assert key not in found
            found[key] = (each.balance.available_minor, each.balance.reserved_minor, each.balance.pending_minor)
        token = page.next_page_token
        if not token:
            break
        await rig.here.parts.cell.execute(request(deposit(rig.users[0])))
    expected = {
        (str(user_id), currency): amounts
        for user_id in rig.truth.of(Kind.ACCOUNT)
        for currency, amounts in rig.truth.balances(user_id, end).items()
    }
    assert found == expected


async def test_who_does_not_lead_answers_only_what_the_log_settles(rig: Rig) -> None:
    """Before the last event nothing can come any more; after it only the leader knows."""
    standby = replace(rig.history, time=CellTime(cell=CELLS[0], clock=SystemClock(), hlc=HybridLogicalClock()))
    [(first_ms, last_ms)] = await ask(rig.here.dsn, "SELECT min(hlc_physical), max(hlc_physical) FROM event_store")
    assert (await standby.point(Moment(time_ms=first_ms))).position >= 1
    assert (await refused(standby.point(Moment(time_ms=last_ms + 1)))).reason == "NOT_LEADING"


async def refused(awaitable: object) -> Refused:
    with pytest.raises(Refused) as caught:
        await awaitable  # type: ignore[misc]
    return caught.value


async def test_what_was_not_there_or_is_not_known_is_refused_by_name(rig: Rig) -> None:
    """Before the first event, beyond the end, in the future, of another kind, of another cell, of nobody."""
    history, user = rig.history, rig.users[0]
    [(first, head)] = await ask(
        rig.here.dsn,
        "SELECT (SELECT position FROM event_store WHERE aggregate_id = $1 AND stream_version = 1), position FROM head",
        user,
    )
    end, asset = Moment(position=head), rig.truth.of(Kind.ASSET)[0]
    early = await refused(history.balances(user, Moment(position=first - 1)))
    assert (early.reason, early.facts["first_position"]) == ("NOT_THERE_YET", first)
    assert (await refused(history.account(user, Moment(time_ms=0)))).reason == "NOT_THERE_YET"
    beyond = await refused(history.balances(user, Moment(position=head + 1)))
    assert (beyond.reason, beyond.facts["position"]) == ("MOMENT_NOT_REACHED", head)
    in_a_minute = Moment(time_ms=rig.here.parts.cell.time.clock.wall_ms() + 60_000)
    ahead = await refused(history.balances(user, in_a_minute))
    assert (ahead.reason, " ms" in ahead.message) == ("MOMENT_NOT_REACHED", False)
    assert f"has not reached {time_text(in_a_minute.time_ms or 0)}" in ahead.message
    assert (await refused(history.auction(asset, end))).reason == "AUCTION_NOT_FOUND"
    assert (await refused(history.asset(uuid4(), end))).reason == "ASSET_NOT_FOUND"
    away = await rig.town.user(CELLS[1])
    assert (await refused(history.balances(away, end))).reason == "WRONG_CELL"
