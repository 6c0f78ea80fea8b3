"""Tables put right from the log while the cell serves, and nothing wrong is said or decided in between."""

import asyncio
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from cells.audit.reconcile.findings import Check, Order, Progress
from cells.audit.reconcile.rebuild import rebuild
from cells.domain.audit.events import Mismatch, ProjectionsRebuilt, ReconciliationFailed
from cells.domain.audit.refusals import AuditUnderWay, StateUnderRepair
from cells.domain.commands import CloseAuction, Transfer, Withdraw
from cells.domain.refusals import NotLeading, Refused
from cells.domain.values import Money
from cells.encoding import codec
from cells.requests import Author
from cells.store.ports import EventFilter
from tests.integration.books.corruptions import CHANGED, MISSING, SURPLUS, Change
from tests.integration.database import opened
from tests.integration.played import HERE, Played, Town, corrupt, serving
from tests.invariants import check_all
from tests.local_cells import available, build_cell, request, until_async

if TYPE_CHECKING:
    from cells.audit.reconcile.rebuild import Rebuilt

RICH = """UPDATE accounts SET state = jsonb_set(state::jsonb, '{balances,USD,available_minor}', '"99999999"')
WHERE id = '%s' RETURNING id"""

UNREADABLE = "UPDATE accounts SET state = '[]' WHERE id = '%s' RETURNING id"


async def rebuilt(town: Town) -> "Rebuilt":
    return await rebuild(town.reconciliations[HERE], author=Author("operator/olga"), note="a disk that lies")


@pytest.mark.parametrize("changes", [CHANGED, MISSING, SURPLUS], ids=["changed", "missing", "surplus"])
async def test_every_derived_row_is_rebuilt(played: Played, changes: Sequence[Change]) -> None:
    """While the cell serves; what was changed is found before, and nothing after; then all invariants hold."""
    dsn = played.dsns[HERE]
    seen: list[Progress] = []
    await corrupt(dsn, [change.sql for change in changes])
    async with serving(played.dsns) as town:
        done = await rebuild(town.reconciliations[HERE], author=Author("operator/olga"), note="", tell=seen.append)
        assert done.before.findings_count >= len(changes)
        assert done.after.findings == []
        projections = sum(change.check is Check.PROJECTION for change in changes)
        houses = sum(change.check is Check.HOUSE for change in changes)
        assert (done.states_count, done.house_count, done.rows_problem) == (projections, houses, "")
        assert done.rows_count >= len(changes) - projections - houses
        assert not town.here.writer.cache.held
        await town.here.execute(request(pay(played, 1)))
    assert {progress.stage for progress in seen} >= {"replay", "states"}
    await check_all(played.dsns)


def pay(played: Played, amount_minor: int) -> Transfer:
    return Transfer(from_user_id=played.ann, to_user_id=played.ben, amount=Money("USD", amount_minor))


async def test_what_is_known_to_be_wrong_is_neither_decided_by_nor_told(played: Played) -> None:
    """A user made rich is not paid out, nor told so, nor are others hindered; once rebuilt, all goes on as before."""
    await corrupt(played.dsns[HERE], [RICH % played.ann])
    withdraw = Withdraw(user_id=played.ann, amount=Money("USD", 5_000_000), external_reference="swiss-1")
    async with serving(played.dsns) as town:
        found = await town.reconciliations[HERE].reconcile(Order(full=False))
        assert found.findings[0].row == f"accounts {played.ann}"
        for refused in (town.here.execute(request(withdraw)), town.here.account(played.ann)):
            with pytest.raises(StateUnderRepair) as caught:
                await refused
            assert (caught.value.final, caught.value.retry_after_ms) == (False, 1_000)
        # Whoever else has to do with nobody wrong is served; and whoever has, is not.
        assert await available(town.here, played.ben)
        with pytest.raises(StateUnderRepair):
            await town.here.execute(request(pay(played, 1)))
        await rebuilt(town)
        assert await available(town.here, played.ann) < 200_000
        with pytest.raises(Refused, match="are needed"):
            await town.here.execute(request(withdraw))
        await town.here.execute(request(pay(played, 1)))
    await check_all(played.dsns)


async def test_without_the_hold_the_rich_would_be_paid_out(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    """Switched off, the safeguard lets money out that nobody has."""
    monkeypatch.setattr("cells.writer.cache.StateCache.require_sound", lambda *_: None)
    await corrupt(played.dsns[HERE], [RICH % played.ann])
    withdraw = Withdraw(user_id=played.ann, amount=Money("USD", 5_000_000), external_reference="swiss-1")
    async with serving(played.dsns) as town:
        await town.reconciliations[HERE].reconcile(Order(full=False))
        await town.here.execute(request(withdraw))
    with pytest.raises(AssertionError):
        await check_all(played.dsns)


async def test_the_next_leader_holds_what_the_last_one_found(played: Played) -> None:
    """From its first decision on."""
    await corrupt(played.dsns[HERE], [RICH % played.ann])
    async with serving(played.dsns) as town:
        await town.reconciliations[HERE].reconcile(Order(full=False))
    async with serving(played.dsns) as town:
        with pytest.raises(StateUnderRepair):
            await town.here.execute(request(pay(played, 1)))
        await rebuilt(town)
        await town.here.execute(request(pay(played, 1)))
    async with serving(played.dsns) as town:
        assert not town.here.writer.cache.held


async def test_a_standby_does_not_tell_what_the_leader_found(played: Played) -> None:
    """Whoever reads from a process that does not lead is no worse off."""
    await corrupt(played.dsns[HERE], [RICH % played.ann])
    async with serving(played.dsns) as town:
        await town.reconciliations[HERE].reconcile(Order())
        async with opened(played.dsns[HERE], HERE) as store:
            standby = build_cell(HERE, store)
            with pytest.raises(StateUnderRepair):
                await standby.account(played.ann)
            assert await available(standby, played.ben)
            await rebuilt(town)
            assert await available(standby, played.ann) < 200_000


async def test_a_row_that_cannot_be_read_ends_nothing(played: Played) -> None:
    """The cell leads, serves all others, and holds the one; a rebuild brings it back."""
    dsn = played.dsns[HERE]
    [account_id] = await corrupt(dsn, [UNREADABLE % played.ann])
    async with serving(played.dsns) as town:
        for refused in (town.here.execute(request(pay(played, 1))), town.here.account(played.ann)):
            with pytest.raises(StateUnderRepair):
                await refused
        assert await available(town.here, played.ben)
        await rebuilt(town)
        await town.here.execute(request(pay(played, 1)))
        assert await available(town.here, account_id)
    await check_all(played.dsns)


async def test_good_state_in_memory_is_not_undone(played: Played) -> None:
    """A row corrupted under a state that the writer has in memory: what happens meanwhile is in the rebuilt one."""
    async with serving(played.dsns) as town:
        await town.here.execute(request(pay(played, 10)))
        before = await available(town.here, played.ben)
        await corrupt(played.dsns[HERE], [RICH % played.ben])
        await asyncio.gather(rebuilt(town), *(paid(town, played) for _ in range(50)))
        assert await available(town.here, played.ben) == before + 50
    await check_all(played.dsns)


async def paid(town: Town, played: Played) -> None:
    """Under one id, until there is an answer."""
    order = request(pay(played, 1))

    async def answered() -> bool:
        try:
            await town.here.execute(order)
        except StateUnderRepair:
            return False
        return True

    await until_async(answered)


async def test_timers_and_sagas_begin_anew(played: Played) -> None:
    """An auction whose end was moved away ends as its events say."""
    async with serving(played.dsns) as town:
        [auction_id] = await corrupt(
            played.dsns[HERE],
            [
                """UPDATE auctions SET state = jsonb_set(state::jsonb, '{state}', '"SETTLED"'), status = 'SETTLED'
                WHERE id = (SELECT id FROM auctions WHERE status = 'ACTIVE' LIMIT 1) RETURNING id"""
            ],
        )
        await rebuilt(town)
        timers = town.here.timers
        assert any(timer.aggregate_id == auction_id for _, _, timer in timers._heap)
        await town.here.execute(request(CloseAuction(auction_id=auction_id, by_command=True)))
        await town.quiet()
    await check_all(played.dsns)


async def test_mismatches_and_rebuilds_are_in_the_log(played: Played) -> None:
    """Each in a stream of its own, that moves no money; the same mismatch is not recorded again and again."""
    dsn = played.dsns[HERE]
    await corrupt(dsn, [RICH % played.ann])
    async with serving(played.dsns) as town:
        for _ in range(3):
            await town.reconciliations[HERE].reconcile(Order(full=False), author=Author("auditor/anna"))
        await rebuilt(town)
        events = await recorded(town)
    [failed] = [event for event, _ in events if isinstance(event, ReconciliationFailed)]
    [put_right] = [event for event, _ in events if isinstance(event, ProjectionsRebuilt)]
    [mismatch, *in_sql] = failed.findings
    assert {each.check for each in in_sql} == {"books"}
    assert isinstance(mismatch, Mismatch)
    assert (mismatch.check, mismatch.row) == ("projection", f"accounts {played.ann}")
    assert "99999999" in mismatch.found
    assert "99999999" not in mismatch.expected
    assert [(each.kind, each.aggregate_id) for each in put_right.states] == [("account", played.ann)]
    assert put_right.note == "a disk that lies"
    assert [principal for _, principal in events] == ["auditor/anna", "operator/olga"]
    await check_all(played.dsns)


async def recorded(town: Town) -> list[tuple[object, str]]:
    wanted = EventFilter(event_types=("RECONCILIATION_FAILED", "PROJECTIONS_REBUILT"))
    rows = await town.here.store.events(from_position=1, limit=100, event_filter=wanted)
    assert all(row.stream_version == 1 for row in rows)
    return [(codec.event_of(row), json.loads(row.metadata)["principal"]) for row in rows]


async def test_without_the_owners_role_states_are_rebuilt_and_rows_are_named(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell whose login may not become the owner says so, and does the rest."""

    async def denied() -> object:
        raise OSError('permission denied to set role "cellbook_owner"')

    await corrupt(played.dsns[HERE], [CHANGED[0].sql, CHANGED[5].sql])
    async with serving(played.dsns) as town:
        passes = town.reconciliations[HERE].passes
        monkeypatch.setattr(type(passes), "connect_owner", property(lambda _: denied), raising=False)
        done = await rebuilt(town)
    assert "cellbook_owner" in done.rows_problem
    assert (done.states_count, done.rows_count) == (1, 0)
    assert {each.check for each in done.after.findings} == {Check.ACCOUNT_ENTRY, Check.BOOKS}


async def test_only_the_leader_and_only_once_at_a_time(played: Played) -> None:
    """A second one is told to come later, a standby to ask another process."""
    async with serving(played.dsns) as town:
        reconciliation = town.reconciliations[HERE]
        first = asyncio.create_task(reconciliation.reconcile(Order(full=True)))
        await asyncio.sleep(0)
        with pytest.raises(AuditUnderWay):
            await reconciliation.reconcile(Order(full=False))
        with pytest.raises(AuditUnderWay):
            await rebuilt(town)
        await first
    with pytest.raises(NotLeading):
        await reconciliation.reconcile(Order(full=False))


async def test_a_deposed_leader_puts_nothing_right(played: Played) -> None:
    """Rows are put right under the epoch that they were found in, or not at all."""
    dsn = played.dsns[HERE]
    await corrupt(dsn, [CHANGED[5].sql])
    async with serving(played.dsns) as town:
        reconciliation, epoch = town.reconciliations[HERE], town.here.writer.epoch
        with pytest.raises(NotLeading):
            await reconciliation.run_pass(Order(full=True, mend_epoch=epoch - 1), lambda _: None)
        report = await reconciliation.run_pass(Order(full=True), lambda _: None)
        assert report.rows_count == 1
