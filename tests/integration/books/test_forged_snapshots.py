"""Snapshots are derived and never trusted: whoever may write to the database cannot make one that is believed."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from cells.audit.history.moments import Moment
from cells.audit.history.snapshots import SnapshotKey
from cells.audit.reconcile.findings import Check, Order
from cells.audit.reconcile.rebuild import rebuild
from cells.requests import Author
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.audit_rig import CELLS, Served, town
from tests.integration.database import ask
from tests.integration.played import HERE, Played, serving
from tests.local_cells import deposit, open_user, request

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
async def served(cluster: EmbeddedPostgres, template: str, tmp_path: Path) -> AsyncIterator[Served]:
    async with town(cluster, template, CELLS[0], keys=tmp_path) as cells:
        yield cells.cells[CELLS[0]]


async def test_a_forged_snapshot_changes_no_answer(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the trial balance nor a state of the past; switched off, the seal lets both be falsified."""
    cell, audit = served.parts.cell, served.parts.audit
    user = await open_user(cell, 500)
    await cell.execute(request(deposit(user)))
    end = Moment(position=(await cell.store.head()).position)
    right = (await audit.trial.at(end)).sums, (await audit.history.account(user, end)).state
    await ask(served.dsn, HOUSE, end.position)
    await ask(served.dsn, STATE, user)
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
