"""Snapshots that are made while the log is written: no question about a long past reads more than a few events."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from cells.audit.history import snapshotter
from cells.audit.history.moments import Moment
from cells.audit.history.questions import Past
from cells.domain.account.account import Account
from cells.domain.commands import PlaceBid
from cells.domain.values import Money
from cells.requests import Outcome
from cells.writer.lineage import SNAPSHOT_EVENTS, CachedState, Lineage
from server.process.settings import ServerSettings
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.audit_rig import CELLS, Served, serve
from tests.integration.database import another, ask, opened
from tests.local_cells import deposit, leading, open_auction, open_user, request

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
        verification = await self.served.parts.audit.stream_checks.check(self.user_id, None)
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
