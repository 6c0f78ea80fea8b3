"""Snapshots that are made while the log is written: no question about a long past reads more than a few events."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from cells.audit.history import snapshotter
from cells.audit.history.moments import Moment
from cells.audit.history.questions import History, Past
from cells.audit.history.snapshots import SnapshotKey
from cells.audit.history.stream_verification import verify_stream
from cells.audit.reconcile import trial
from cells.audit.reconcile.findings import Check, Order
from cells.audit.reconcile.rebuild import rebuild
from cells.audit.reconcile.trial import LiveSums, TrialBalances
from cells.domain.account.account import Account
from cells.domain.commands import PlaceBid, Transfer, Withdraw
from cells.domain.values import Money
from cells.requests import Author, Outcome
from cells.writer.batch import Commit
from cells.writer.lineage import SNAPSHOT_EVENTS, CachedState, Lineage
from server.process.settings import ServerSettings
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.doubles.history import MemoryHistoryLookups
from tests.integration.audit_rig import CELLS, Served, serve, town
from tests.integration.database import another, ask, opened
from tests.integration.played import HERE, Played, serving
from tests.local_cells import deposit, leading, memory_cell, open_auction, open_user, request

CELL = CELLS[0]
DEPOSITS = 300


@pytest.fixture
async def dsn(cluster: EmbeddedPostgres, template: str) -> AsyncIterator[str]:
    async with another(cluster, template) as dsn:
        yield dsn


@asynccontextmanager
async def served(dsn: str) -> AsyncIterator[Served]:
    """The cell leads in this database, as after a start."""
    async with opened(dsn, CELL) as store:
        served = await serve(ServerSettings(cell=CELL, dsn=dsn, listen="127.0.0.1:0"), store)
        try:
            async with leading(served.parts.leadership):
                await served.stop_snapshots()
                yield served
        finally:
            await served.channel.close()
            await served.server.stop(None)
            await served.parts.peers.close()


async def deposited(served: Served, user_id: UUID, count: int = DEPOSITS) -> None:
    requests = [request(deposit(user_id)) for _ in range(count)]
    answers = await served.parts.cell.execute_all(requests, deadline_s=None)
    assert all(isinstance(answer, Outcome) for answer in answers)


async def proven(served: Served) -> None:
    """What waits is compared, and then made."""
    await served.live.keep()
    while await served.live.prove():
        pass
    await served.live.keep()


@dataclass(frozen=True, slots=True)
class Long:
    """An account in a cell of one user: after its opening, each event of the log is a deposit of 1.00."""

    served: Served
    user_id: UUID

    async def at(self, position: int) -> Past[Account]:
        """The past as the first question about it finds it: it leaves no snapshots."""
        before = await self.snapshots()
        past = await self.served.parts.audit.history.account(self.user_id, Moment(position=position))
        await ask(self.served.dsn, "DELETE FROM snapshots WHERE position <> ALL($1)", before)
        return past

    async def snapshots(self) -> list[int]:
        rows = await ask(self.served.dsn, "SELECT position FROM snapshots WHERE aggregate_id = $1", self.user_id)
        return [position for (position,) in rows]

    async def check(self, events_max: int) -> None:
        """Every fiftieth position, and the last: the state is right, and few events were read for it."""
        end = (await self.served.store.head()).position
        for position in (*range(50, end, 50), end):
            past = await self.at(position)
            assert past.state.balance("USD").available_minor == 100 * (past.stream_version - 1)
            assert past.events_read <= events_max, position
        verification = await verify_stream(self.served.parts.audit.history, self.user_id, None)
        assert verification.problems == []


async def test_no_question_about_an_account_reads_many_events(dsn: str) -> None:
    """Nobody has asked before, and nothing was folded: the snapshotter finds none missing."""
    async with served(dsn) as cell:
        user_id = await open_user(cell.parts.cell)
        await deposited(cell, user_id)
        await cell.live.keep()
        long = Long(cell, user_id)
        assert len(await long.snapshots()) == (1 + DEPOSITS) // SNAPSHOT_EVENTS
        await long.check(SNAPSHOT_EVENTS - 1)
        assert await cell.keeper.store.due(0, cell.parts.cell.time.durable_position, SNAPSHOT_EVENTS) == []


async def test_no_question_about_an_auction_reads_many_events(dsn: str) -> None:
    """One in which two outbid each other all the while, and the account of one of them."""
    async with served(dsn) as cell:
        users = [await open_user(cell.parts.cell, 1_000_000) for _ in range(3)]
        auction_id = await open_auction(cell.parts.cell, users[2])
        bids = [
            PlaceBid(auction_cell=CELL, auction_id=auction_id, bidder_id=users[number % 2], amount=Money("USD", amount))
            for number, amount in enumerate(range(1_000, 1_150))
        ]
        await cell.parts.cell.execute_all([request(bid) for bid in bids], deadline_s=None)
        await cell.live.keep()
        end, history = Moment(position=cell.parts.cell.time.durable_position), cell.parts.audit.history
        auction, bidder = await history.auction(auction_id, end), await history.account(users[0], end)
        assert min(auction.stream_version, bidder.stream_version) >= len(bids)
        assert max(auction.events_read, bidder.events_read) < SNAPSHOT_EVENTS


async def test_a_new_leader_compares_the_states_that_it_has_loaded_and_goes_on(dsn: str) -> None:
    """One comparison a stream, of the few events since its last snapshot; then every state is known to be right."""
    async with served(dsn) as first:
        user_id = await open_user(first.parts.cell)
        await deposited(first, user_id)
        await first.live.keep()
    async with served(dsn) as second:
        await deposited(second, user_id)
        await proven(second)
        long = Long(second, user_id)
        assert len(await long.snapshots()) == (1 + 2 * DEPOSITS) // SNAPSHOT_EVENTS
        await long.check(SNAPSHOT_EVENTS - 1)


async def test_a_stream_without_snapshots_waits_for_the_snapshotter(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an upgrade: nothing compares a long stream at once, which would take the writer's time."""
    monkeypatch.setattr(snapshotter, "PROOF_EVENTS_MAX", SNAPSHOT_EVENTS)
    async with served(dsn) as first:
        user_id = await open_user(first.parts.cell)
        await deposited(first, user_id)
    async with served(dsn) as second:
        await ask(dsn, "DELETE FROM snapshots")
        await ask(dsn, "UPDATE snapshot_progress SET position = 0")
        long = Long(second, user_id)
        await deposited(second, user_id, SNAPSHOT_EVENTS)
        await proven(second)
        assert await long.snapshots() == []
        while await second.keeper.step():
            pass
        await deposited(second, user_id, SNAPSHOT_EVENTS)
        await proven(second)
        assert (await long.at(second.parts.cell.time.durable_position)).events_read < SNAPSHOT_EVENTS


CHANGE = "UPDATE accounts SET state = replace(state, '30000', '99900') WHERE id = $1"


async def lied_to(dsn: str) -> tuple[list[str], int, Past[Account]]:
    """The log, the last snapshot and the past, of a leader that has loaded a state which somebody has changed."""
    async with served(dsn) as first:
        user_id = await open_user(first.parts.cell)
        await deposited(first, user_id)
        await first.live.keep()
    await ask(dsn, CHANGE, user_id)
    async with served(dsn) as second:
        long = Long(second, user_id)
        assert (await second.parts.cell.account(user_id)).state.balance("USD").available_minor == 99_900
        with capture_logs() as logs:
            for _ in range(3):
                await deposited(second, user_id, SNAPSHOT_EVENTS)
                await proven(second)
        said = [each["event"] for each in logs if each["log_level"] == "critical"]
        last = max(await long.snapshots())
        return said, last, await long.at(second.parts.cell.time.durable_position)


async def test_a_changed_state_becomes_no_snapshot(dsn: str) -> None:
    """Whoever may write to the database changes the present state, and with it no answer about the past."""
    said, last, past = await lied_to(dsn)
    assert said == ["snapshot_refused"]
    assert last <= 1 + DEPOSITS + SNAPSHOT_EVENTS
    assert past.state.balance("USD").available_minor == 100 * (DEPOSITS + 3 * SNAPSHOT_EVENTS)


async def test_without_the_comparison_a_changed_state_would_be_the_past(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ablation: a loaded state is believed."""

    def believed(state: Account, version: int) -> CachedState:
        return CachedState(state, version, Lineage(version + SNAPSHOT_EVENTS - version % SNAPSHOT_EVENTS))

    monkeypatch.setattr(CachedState, "loaded", believed)
    _, _, past = await lied_to(dsn)
    assert past.state.balance("USD").available_minor > 99_900


# --- sums that are added up while the log is written ---


EVERY = 4


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "HOUSE_EVERY", EVERY)


async def test_live_sums_are_those_of_the_log() -> None:
    """For each part of the log, and for the whole of it; a part that is only half known is read from the log."""
    async with memory_cell() as (cell, store):
        live, late, commits = LiveSums(), LiveSums(), list[Commit]()
        cell.writer.followers += [live.follow, commits.append]
        seller, payer, payee = [await open_user(cell, 10_000) for _ in range(3)]
        auction_id = await open_auction(cell, seller)
        for bidder_id, amount_minor in ((payer, 100), (payee, 200), (payee, 300), (payer, 400)):
            bid = PlaceBid(
                auction_id=auction_id,
                auction_cell=cell.name,
                bidder_id=bidder_id,
                amount=Money("USD", amount_minor),
            )
            await cell.execute(request(bid))
        await cell.execute(request(Transfer(from_user_id=payer, to_user_id=payee, amount=Money("USD", 7))))
        await cell.execute(request(Withdraw(user_id=payee, amount=Money("USD", 5), external_reference="out")))
        history = History(
            cell=cell.name,
            store=store,
            time=cell.time,
            lookups=MemoryHistoryLookups(store),
            deciding=set,
            placed=cell.routing.placed,
        )
        read, known = TrialBalances(history=history), TrialBalances(history=history, live=live)

        end = len(store.log) - len(store.log) % EVERY
        assert end >= 4 * EVERY
        for until in range(EVERY, end + 1, EVERY):
            expected = Counter(await read.sums_at(until))
            expected.subtract(await read.sums_at(until - EVERY))
            found = live.between(until - EVERY, until)
            # Counters are equal whether a sum of zero is in them or not.
            assert found == expected
            assert sum(found.values()) == 0
            assert await known.sums_at(until) == await read.sums_at(until)

        for commit in commits[2:]:
            late.follow(commit)
        assert late.between(0, EVERY) is None
        assert late.between(end - EVERY, end) == live.between(end - EVERY, end)
        assert late.between(0, end) is None


async def test_a_gap_in_the_commits_is_no_part() -> None:
    """After another process has led, the sums begin anew."""
    async with memory_cell() as (cell, _):
        live, commits = LiveSums(), list[Commit]()
        cell.writer.followers.append(commits.append)
        for _ in range(3 * EVERY):
            await open_user(cell)
        with_events = [commit for commit in commits if commit.events]
        for commit in with_events[: EVERY + 1] + with_events[EVERY + 2 :]:
            live.follow(commit)
        assert live.between(0, EVERY) is not None
        assert live.between(EVERY, 2 * EVERY) is None
        assert live.between(2 * EVERY, 3 * EVERY) is not None


# --- forged snapshots ---


# Both say that a million of minor units more was taken in as fees, with the hash that anybody can make.
HOUSE = """INSERT INTO house_snapshots (position, balances, leaf_hash, seal)
    SELECT position, b, leaf_hash, sha256(leaf_hash || convert_to(b, 'UTF8')) FROM event_store, (
        SELECT '{"external":{"USD":"-1000000"},"fees":{"USD":"1000000"}}' AS b) s WHERE position = $1"""
STATE = """INSERT INTO snapshots (aggregate_id, position, stream_version, kind, state, leaf_hash, seal)
    SELECT a.id, e.position, e.stream_version, 'account', s, e.leaf_hash, sha256(e.leaf_hash || convert_to(s, 'UTF8'))
    FROM accounts a JOIN event_store e ON e.aggregate_id = a.id AND e.stream_version = 1,
         LATERAL (SELECT replace(a.state, '"available_minor":"', '"available_minor":"99') AS s) forged
    WHERE a.id = $1"""


@pytest_asyncio.fixture
async def signing_cell(cluster: EmbeddedPostgres, template: str, tmp_path: Path) -> AsyncIterator[Served]:
    async with town(cluster, template, CELLS[0], keys=tmp_path) as cells:
        yield cells.cells[CELLS[0]]


async def test_a_forged_snapshot_changes_no_answer(signing_cell: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the trial balance nor a state of the past; switched off, the seal lets both be falsified."""
    cell, audit = signing_cell.parts.cell, signing_cell.parts.audit
    user = await open_user(cell, 500)
    await cell.execute(request(deposit(user)))
    end = Moment(position=(await cell.store.head()).position)
    right = (await audit.trial.at(end)).sums, (await audit.history.account(user, end)).state
    await ask(signing_cell.dsn, HOUSE, end.position)
    await ask(signing_cell.dsn, STATE, user)
    assert ((await audit.trial.at(end)).sums, (await audit.history.account(user, end)).state) == right
    monkeypatch.setattr(SnapshotKey, "sealed", lambda *_: True)
    assert (await audit.trial.at(end)).sums["fees", "USD"] == 1_000_000
    assert (await audit.history.account(user, end)).state != right[1]


async def test_a_pass_finds_and_a_rebuild_drops_snapshots_that_are_not_what_the_events_come_to(played: Played) -> None:
    """However well they are sealed: each is compared with the replay, at its place."""
    dsn = played.dsns[HERE]
    async with serving(played.dsns) as town:
        await ask(dsn, HOUSE, 40)
        await ask(dsn, STATE, played.ann)
        report = (await town.reconciliations[HERE].reconcile(Order(full=True))).report
        rows = [each.row for each in report.findings if each.check is Check.SNAPSHOT]
        assert any("house_snapshots (40): fees USD" in row for row in rows)
        assert any(row.startswith(f"snapshots ({played.ann}") for row in rows)
        done = await rebuild(town.reconciliations[HERE], author=Author("operator/olga"), note="somebody's work")
        assert done.after.findings == []
    assert await ask(dsn, "SELECT position FROM house_snapshots UNION ALL SELECT position FROM snapshots") == []
