"""Copies of events that a user has brought along: one that is not what the sending cell's log has is named."""

from dataclasses import dataclass, field
from uuid import UUID

import pytest

from cells.audit.checks.copies import Copies, Proven
from cells.audit.history.lookups import PostgresHistoryLookups, PostgresTraceLookups
from cells.audit.history.trace import Answer, Finder, Search, Silent
from cells.audit.reconcile.findings import Check, Order
from cells.domain.moves.commands import BeginMove
from cells.store.postgres import PostgresStore
from tests.integration.audit.superuser import COPIES_OPEN, rehash_copies, unguard
from tests.integration.database import ask, opened_raw
from tests.integration.moves.moves_rig import asked
from tests.integration.played import HERE, THERE, Played, serving
from tests.local_cells import deposit


@dataclass
class Peers:
    """The other cell as it answers, without a network in between."""

    finder: Finder
    silent: bool = False
    asked: list[int] = field(default_factory=list)

    async def find(self, cell: str, search: Search, limit: int) -> Answer:
        if self.silent:
            raise Silent(f"{cell} is cut off")
        self.asked.append(len(search.causes))
        return await self.finder.find(search, limit)


@pytest.fixture
async def moved(played: Played) -> Played:
    """Ann has moved from here to there."""
    async with serving(played.dsns) as town:
        town.directory.homes |= {played.ann: HERE, played.ben: HERE, played.carl: THERE}
        await town.here.execute(asked(BeginMove(user_id=played.ann, to_cell=THERE, region=None), played.ann))
        await town.quiet()
    return played


async def compared(moved: Played, *, after: int = 0, silent: bool = False) -> Proven:
    async with opened_raw(moved.dsns[HERE], HERE) as here, opened_raw(moved.dsns[THERE], THERE) as there:
        return await _compared(here, there, after, silent=silent)


async def _compared(here: PostgresStore, there: PostgresStore, after: int, *, silent: bool) -> Proven:
    peers = Peers(Finder(HERE, PostgresTraceLookups(here)), silent)
    return await Copies(cell=THERE, store=there, find=peers.find).compare(after, 2**40)


async def test_copies_are_proven_by_the_chain_of_the_arrival(moved: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every one of them, in however small portions, with the other cell away; and only those that arrived since."""
    [(count,)] = await ask(moved.dsns[THERE], "SELECT count(*) FROM moved_events")
    for page in (64, 5, 1):
        monkeypatch.setattr("cells.audit.checks.copies.PAGE", page)
        assert await compared(moved, silent=True) == Proven([], count)
    [(arrived,)] = await ask(moved.dsns[THERE], ARRIVAL)
    assert await compared(moved, after=arrived) == Proven()


@pytest.fixture
async def unchained(moved: Played) -> Played:
    """As an arrival of before chains has left it: what its copies mark was carried by events."""
    await unguard(moved.dsns[THERE], "event_store")
    await ask(moved.dsns[THERE], COPIES_OPEN)
    await ask(moved.dsns[THERE], "UPDATE event_store SET payload = payload - 'history'")
    await ask(moved.dsns[THERE], "UPDATE moved_events SET mark = '', mark_id = NULL")
    return moved


async def test_without_a_chain_they_are_proven_by_the_log_that_they_are_of(
    unchained: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row by row. Where that cell is away, it is said how many are not proven, and never that all is well."""
    [(count,)] = await ask(unchained.dsns[THERE], "SELECT count(*) FROM moved_events")
    for page in (64, 5, 1):
        monkeypatch.setattr("cells.audit.checks.copies.PAGE", page)
        assert await compared(unchained) == Proven([], count)
    proven = await compared(unchained, silent=True)
    assert (proven.findings, proven.proven) == ([], 0)
    assert proven.missing == {HERE: f"{count} copies of its events are not proven: {HERE} is cut off"}


async def test_a_user_who_comes_back_leaves_nothing_to_find(moved: Played) -> None:
    """To and fro, with events at each home: what each has of the other grows, and the last arrival binds all of it."""
    async with serving(moved.dsns) as town:
        town.directory.homes |= {moved.ann: THERE, moved.ben: HERE, moved.carl: THERE}
        town.directory.epochs[moved.ann] = 2
        for cell, to_cell in ((town.there, HERE), (town.here, THERE)):
            await cell.execute(asked(deposit(moved.ann, 5), moved.ann))
            await cell.execute(asked(BeginMove(user_id=moved.ann, to_cell=to_cell, region=None), moved.ann))
            await town.quiet()
    async with opened_raw(moved.dsns[HERE], HERE) as here, opened_raw(moved.dsns[THERE], THERE) as there:
        for own, other, name, peer in ((here, there, HERE, THERE), (there, here, THERE, HERE)):
            for silent in (True, False):
                peers = Peers(Finder(peer, PostgresTraceLookups(other)), silent)
                proven = await Copies(cell=name, store=own, find=peers.find).compare(0, 2**40)
                assert (proven.findings, proven.missing) == ([], {}), name
                assert proven.proven > 0


ARRIVAL = "SELECT position FROM event_store WHERE event_type = 'ACCOUNT_ARRIVED'"
# Of the third copy: what is done to it, and what is said. Each with the hash that it had, and with one made right.
AMOUNT = "payload = jsonb_set(payload, '{amount_minor}', '\"999\"')"
CHANGES = {
    "changed": f"UPDATE moved_events SET {AMOUNT} WHERE position = $1",  # noqa: S608
    "deleted": "DELETE FROM moved_events WHERE position = $1",
    "of another cell": "UPDATE moved_events SET cell = 'nowhere' WHERE position = $1",
    "at another position": "UPDATE moved_events SET position = position + 100000 WHERE position = $1",
    "twice": """INSERT INTO moved_events SELECT (json_populate_record(m, json_build_object(
        'position', 100000, 'event_id', gen_random_uuid()))).* FROM moved_events m WHERE position = $1""",
}


@pytest.mark.parametrize("hashes", ["as they were", "made right"])
@pytest.mark.parametrize("change", CHANGES)
async def test_a_changed_copy_is_named(moved: Played, change: str, hashes: str) -> None:
    """By its user and cell, and nothing else is."""
    dsn = moved.dsns[THERE]
    [(position,)] = await ask(dsn, "SELECT position FROM moved_events WHERE stream_version = 3")
    await ask(dsn, COPIES_OPEN)
    await ask(dsn, CHANGES[change], position)
    if hashes == "made right":
        await rehash_copies(dsn)
    proven = await compared(moved)
    assert proven.findings
    assert {each.check for each in proven.findings} == {Check.COPY}
    assert all(f"moved_events ({moved.ann}, {HERE}" in each.row for each in proven.findings)


@pytest.mark.parametrize("change", ["changed", "deleted"])
async def test_a_changed_copy_is_named_without_a_chain(unchained: Played, change: str) -> None:
    """By the log of the other cell alone."""
    dsn = unchained.dsns[THERE]
    await ask(
        dsn, CHANGES[change], (await ask(dsn, "SELECT position FROM moved_events WHERE stream_version = 3"))[0][0]
    )
    await rehash_copies(dsn)
    [finding] = (await compared(unchained)).findings
    assert finding.row.startswith(f"moved_events ({unchained.ann}, {HERE}")


async def test_a_copy_that_was_changed_in_both_cells_is_named_by_the_chain(moved: Played) -> None:
    """The other cell's row is no proof then: what the arrival says is in this cell's own signed log."""
    for dsn, table in ((moved.dsns[THERE], "moved_events"), (moved.dsns[HERE], "event_store")):
        await ask(dsn, f"ALTER TABLE {table} DISABLE TRIGGER ALL")
        query = f"UPDATE {table} SET {AMOUNT} WHERE aggregate_id = $1 AND event_type = 'DEPOSITED'"  # noqa: S608
        await ask(dsn, query, moved.ann)
    await rehash_copies(moved.dsns[THERE])
    assert any("the chain that the arrival says" in each.expected for each in (await compared(moved)).findings)


@pytest.mark.parametrize("mark", ["'', mark_id = NULL", "'reference', mark_id = gen_random_uuid()"])
async def test_a_changed_mark_is_named(moved: Played, mark: str) -> None:
    """Without it a reference of the user's could be used a second time here."""
    dsn = moved.dsns[THERE]
    await ask(dsn, COPIES_OPEN)
    changed = f"UPDATE moved_events SET mark = {mark} WHERE mark = 'reference' RETURNING position"  # noqa: S608
    [(position,)] = await ask(dsn, changed)
    [finding] = (await compared(moved)).findings
    assert finding.row == f"moved_events ({moved.ann}, {HERE}, {position}), mark"


async def test_a_pass_of_the_cell_compares_its_copies(moved: Played) -> None:
    """With what else it compares with other cells: findings are findings, a cell that is silent is missing."""
    dsn = moved.dsns[THERE]
    await ask(dsn, "ALTER TABLE moved_events DISABLE TRIGGER counted_stays")
    await ask(dsn, "DELETE FROM moved_events WHERE stream_version = 3")
    await ask(dsn, "ALTER TABLE moved_events ENABLE ALWAYS TRIGGER counted_stays")
    async with serving(moved.dsns) as town:
        here, there = town.here.store, town.there.store
        assert isinstance(here, PostgresStore)
        assert isinstance(there, PostgresStore)
        peers = Peers(Finder(HERE, PostgresTraceLookups(here)))
        town.reconciliations[THERE].copies = Copies(cell=THERE, store=there, find=peers.find)
        found = await town.reconciliations[THERE].reconcile(Order(full=True))
        assert {each.check for each in found.findings} == {Check.COPY}
        assert found.clearing.missing == {}
        peers.silent = True
        await unguard(dsn, "event_store")
        await ask(dsn, "UPDATE event_store SET payload = payload - 'history'")
        found = await town.reconciliations[THERE].reconcile(Order(full=True))
        assert "not proven" in found.clearing.missing[HERE]


async def test_each_home_lists_the_users_who_live_there(moved: Played) -> None:
    """Ann, who has left, is listed by her new home alone, under its epoch; page by page."""
    listed: dict[str, dict[UUID, tuple[int, str]]] = {}
    for cell in (HERE, THERE):
        async with opened_raw(moved.dsns[cell], cell) as store:
            lookups, last = PostgresHistoryLookups(store), UUID(int=0)
            listed[cell] = {}
            while page := await lookups.homes(last, 1):
                last = page[0].user_id
                listed[cell][last] = (page[0].epoch, page[0].moving_to)
            at_once = await lookups.homes(UUID(int=0), 100)
            assert [each.user_id for each in at_once] == list(listed[cell])
    assert listed[HERE] == {moved.ben: (1, "")}
    assert listed[THERE] == {moved.ann: (2, ""), moved.carl: (1, "")}
