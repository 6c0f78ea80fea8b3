"""Movements between two cells, leg by leg, at a cut that both have promised to keep."""

import asyncio
from uuid import UUID, uuid4

import pytest

from cells.audit.reconcile.clearing import Cut, Side, matched
from cells.audit.reconcile.cuts import SQL, Compared
from cells.audit.reconcile.findings import Order
from cells.audit.reconcile.rebuild import rebuild
from cells.domain.audit.refusals import StampInFuture
from cells.domain.commands import Transfer
from cells.domain.moves.commands import BeginMove
from cells.domain.refusals import NotLeading
from cells.domain.time.hlc import Stamp
from cells.domain.values import Money
from cells.requests import Author
from cells.store.ports import Batch
from cells.store.postgres import PostgresStore
from tests.doubles.failpoints import holding
from tests.integration.database import ask, records
from tests.integration.moves.moves_rig import asked
from tests.integration.played import HERE, THERE, Played, Town, corrupt, serving, superuser
from tests.invariants import check_all
from tests.local_cells import request, under_way, until, until_async

ID, SAGA = uuid4(), uuid4()


def side(
    amount_minor: int,
    *,
    entries_count: int = 1,
    ended: bool | None = None,
    currency: str = "USD",
    sums_count: int = 1,
) -> Side:
    return Side(ID, currency, amount_minor, entries_count, SAGA, ended, sums_count)


def problems(mine: Side | None, theirs: Side | None, there: str = THERE) -> list[str]:
    cut = Cut(HERE, there, {ID: mine} if mine else {}, {ID: theirs} if theirs else {})
    findings, left = matched(cut)
    assert bool(left) == bool(findings or sum(each.amount_minor for each in (mine, theirs) if each))
    return [finding.expected for finding in findings]


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (side(5, ended=True), side(-5)),
        (side(5, ended=False), side(-5)),
        (side(5, ended=False), None),
        (side(5), side(0, entries_count=2, ended=False)),
        (None, side(5, ended=False)),
        (side(0, entries_count=2, ended=True), None),
        (side(0, entries_count=2, ended=True), side(0, entries_count=2)),
        # The payee went to the other cell, back, and there again.
        (side(5, entries_count=3, ended=True), side(-5, entries_count=3)),
    ],
)
def test_movements_that_are_done_or_on_their_way(mine: Side | None, theirs: Side | None) -> None:
    """Sent and received, or sent and not yet received, or taken back."""
    assert problems(mine, theirs) == []


@pytest.mark.parametrize(
    ("mine", "theirs", "problem"),
    [
        (side(5, ended=True), None, "saga has ended"),
        (None, side(-5, ended=False), "no more has arrived"),
        (side(5, ended=False), side(-10), "no more has arrived"),
        (side(10, ended=False, entries_count=2), side(-5), "no more has arrived"),
        (side(5, ended=False), side(5), "from one side alone"),
        (side(5), None, "neither knows"),
        (side(5, ended=True), side(-5, currency="EUR"), "one currency"),
        (side(5, ended=True, entries_count=3, sums_count=2), side(-5), "takes the one before back"),
    ],
)
def test_movements_that_are_wrong(mine: Side | None, theirs: Side | None, problem: str) -> None:
    """Each by itself, whatever others make up for."""
    assert any(problem.replace("saga has ended", "has ended") in each for each in problems(mine, theirs))


async def compared(town: Town, *, full: bool = False, cell: str = HERE) -> Compared:
    return (await town.reconciliations[cell].reconcile(Order(full=full))).clearing


def about_clearing(found: Compared) -> list[str]:
    return [f"{each.row}: {each.expected} / {each.found}" for each in found.findings]


async def test_a_played_market_clears(played: Played) -> None:
    """From both sides; nothing is open."""
    async with serving(played.dsns) as town:
        for cell in (HERE, THERE):
            found = await compared(town, full=True, cell=cell)
            assert (about_clearing(found), found.open_count, found.missing) == ([], 0, {})
            assert found.cells == [THERE, HERE]


async def test_balances_of_clearing_make_each_other_up(played: Played) -> None:
    """Together they are what is in transit: nothing, once a market is played."""
    async with serving(played.dsns) as town:
        here, there = [await town.reconciliations[cell].clearing.balances() for cell in (HERE, THERE)]
        assert {(each.peer, each.currency): each.amount_minor for each in here}
        assert [(THERE, each.currency, each.amount_minor) for each in here] == [
            (THERE, each.currency, -each.amount_minor) for each in there
        ]
        assert {each.peer for each in there} == {HERE}


# A leg is lost here, and another one of the same amount is doubled there: the sums over all cells are as before.
LOST = """DELETE FROM clearing_entries WHERE (clearing_id, position) = (
    SELECT clearing_id, position FROM clearing_entries WHERE peer = 'eu-west' AND amount_minor = {amount}
    ORDER BY position LIMIT 1) RETURNING clearing_id"""
DOUBLED = """INSERT INTO clearing_entries SELECT clearing_id, 1, peer, currency,
    amount_minor FROM clearing_entries WHERE peer = 'us-east' AND amount_minor = {amount} AND clearing_id <> '{lost}'
    ORDER BY position LIMIT 1 RETURNING clearing_id"""


ONCE_MORE = """INSERT INTO clearing_entries SELECT clearing_id, n, peer, currency, sign * amount_minor
    FROM clearing_entries, (VALUES (1000001, -1), (1000002, 1)) more (n, sign)
    WHERE peer = '{peer}' AND clearing_id = '{id}'"""


async def test_money_that_follows_a_user_to_and_fro_is_no_mismatch(played: Played) -> None:
    """Three entries on each side, of one amount and by turns; three that are not are one."""
    here, there = played.dsns[HERE], played.dsns[THERE]
    [(clearing_id,)] = await ask(
        here,
        "SELECT clearing_id FROM clearing_entries WHERE peer = 'eu-west' GROUP BY 1 HAVING count(*) = 1 LIMIT 1",
    )
    async with superuser(here) as one, superuser(there) as other:
        await one.execute(ONCE_MORE.format(peer=THERE, id=clearing_id))
        await other.execute(ONCE_MORE.format(peer=HERE, id=clearing_id))
    sides = [await sums_of(dsn, peer, clearing_id) for dsn, peer in ((here, THERE), (there, HERE))]
    assert sides == [(3, 1), (3, 1)]
    async with superuser(here) as one:
        await one.execute(
            "UPDATE clearing_entries SET amount_minor = abs(amount_minor) WHERE clearing_id = $1", clearing_id
        )
    assert await sums_of(here, THERE, clearing_id) == (3, 3)


async def sums_of(dsn: str, peer: str, clearing_id: UUID) -> tuple[int, int]:
    [row] = await records(dsn, SQL["sides"], peer, [clearing_id], 2_000_000, [None])
    return row["entries_count"], row["sums_count"]


async def test_a_lost_leg_and_a_doubled_one_do_not_cancel(played: Played) -> None:
    """Each is named, though all sums are zero; each cell's rebuild puts its own right."""
    async with serving(played.dsns) as town:
        for _ in range(2):
            await town.here.execute(
                request(
                    Transfer(from_user_id=played.ben, to_user_id=played.carl, amount=Money("USD", 50), to_cell=THERE)
                )
            )
        await town.quiet()
        [lost] = await corrupt(played.dsns[HERE], [LOST.format(amount=50)])
        [doubled] = await corrupt(played.dsns[THERE], [DOUBLED.format(amount=-50, lost=lost)])
        sums = [
            (await ask(dsn, "SELECT sum(amount_minor) FROM clearing_entries"))[0][0] for dsn in played.dsns.values()
        ]
        assert sum(sums) == -100
        for cell in (HERE, THERE):
            named = about_clearing(await compared(town, full=True, cell=cell))
            assert any(str(lost) in each for each in named), named
            assert any(str(doubled) in each for each in named), named
        for cell in (HERE, THERE):
            await rebuild(town.reconciliations[cell], author=Author("operator/olga"), note="")
        for cell in (HERE, THERE):
            assert about_clearing(await compared(town, full=True, cell=cell)) == []
    await check_all(played.dsns)


async def test_a_cell_that_is_away_is_named(played: Played) -> None:
    """It is asked again next time, from where it was left."""
    async with serving(played.dsns) as town:
        town.peers.cut.add(THERE)
        found = await compared(town, full=True)
        assert (found.cells, list(found.missing)) == ([HERE], [THERE])
        town.peers.cut.clear()
        assert (await compared(town)).missing == {}


async def open_movements(town: Town) -> list[int]:
    """As each cell counts those between both, none of which is wrong."""
    found = [await compared(town, cell=cell) for cell in (HERE, THERE)]
    assert [about_clearing(each) for each in found] == [[], []]
    return [each.open_count for each in found]


@pytest.mark.parametrize(("leg", "sending"), [("receive", "REMOTE_TRANSFER_SENT"), ("arrive", "BALANCE_DEPARTED")])
async def test_what_is_on_its_way_is_no_mismatch(played: Played, leg: str, sending: str) -> None:
    """Money in a saga that is held between two cells is open, not wrong, until the saga has ended."""
    async with serving(played.dsns) as town:
        town.directory.homes |= {played.ann: HERE, played.ben: HERE, played.carl: THERE}
        pay = Transfer(from_user_id=played.carl, to_user_id=played.ben, amount=Money("USD", 40), to_cell=HERE)
        move = BeginMove(user_id=played.carl, to_cell=HERE, region=None)
        order = request(pay) if leg == "receive" else asked(move, played.carl)
        with holding(town.there.engine.steps, leg):
            answer = asyncio.create_task(town.there.execute(order))
            query = "SELECT 1 FROM event_store WHERE event_type = $1"
            await until_async(lambda: ask(played.dsns[THERE], query, sending))
            assert await open_movements(town) == [1, 1]
        await answer
        await town.quiet()
        assert await open_movements(town) == [0, 0]


async def test_the_price_of_a_sale_is_open_before_the_cell_that_drives_it_has_taken_it(played: Played) -> None:
    """The auction's cell has no entry of the movement yet, and still knows that its saga has not ended."""
    query = "SELECT count(*) FROM event_store WHERE event_type = 'ESCROW_SENT'"
    async with serving(played.dsns) as town:
        before = await ask(played.dsns[THERE], query)
        with holding(town.here.engine.steps, "escrow-in"):
            sale = asyncio.create_task(town.sale(seller=played.ann, bids=[(played.carl, town.there, 900)]))
            await until_async(lambda: ask(played.dsns[THERE], query), lambda found: found != before)
            assert await open_movements(town) == [1, 1]
        await sale
        assert await open_movements(town) == [0, 0]


async def test_cuts_are_consistent_while_money_crosses(played: Played) -> None:
    """Settlements run to and fro between both cells, and no look finds what was received before it was sent."""
    async with serving(played.dsns) as town:
        crossing = asyncio.create_task(cross(town, played))
        try:
            opened = 0
            for number in range(12):
                found = await compared(town, full=number % 4 == 0, cell=(HERE, THERE)[number % 2])
                assert about_clearing(found) == []
                opened += found.open_count
        finally:
            crossing.cancel()
            await asyncio.wait([crossing])
        await town.quiet()
        assert (await compared(town, full=True)).open_count == 0
    await check_all(played.dsns)


async def cross(town: Town, played: Played) -> None:
    to, fro = (town.here, played.ben, played.carl, THERE), (town.there, played.carl, played.ben, HERE)
    while True:
        await asyncio.gather(
            *(
                cell.execute(request(Transfer(from_user_id=a, to_user_id=b, amount=Money("USD", 1), to_cell=away)))
                for cell, a, b, away in (to, fro) * 5
            )
        )


async def test_nothing_is_promised_for_the_future_or_by_a_standby(played: Played) -> None:
    """A promise is of the one who writes, and up to the clock that it writes by."""
    async with serving(played.dsns) as town:
        clearing = town.reconciliations[HERE].clearing
        now_ms = town.here.time.clock.wall_ms()
        with pytest.raises(StampInFuture):
            await clearing.promise(Stamp(now_ms + 60_000, 0))
        assert await clearing.promise(Stamp(1, 0)) == 0
        assert await clearing.promise(town.here.time.hlc.last) == town.here.time.durable_position
    with pytest.raises(NotLeading):
        await clearing.promise(Stamp(now_ms, 0))


async def test_a_promise_waits_for_what_has_its_stamp_already(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that is decided and not yet durable is below the cut: the cut is told once it is there."""
    gate, append = asyncio.Event(), PostgresStore.append

    async def slowly(store: PostgresStore, batch: Batch) -> None:
        if batch.events:
            await gate.wait()
        await append(store, batch)

    async with serving(played.dsns) as town:
        monkeypatch.setattr(PostgresStore, "append", slowly)
        pay = Transfer(from_user_id=played.ben, to_user_id=played.ann, amount=Money("USD", 1))
        paying = asyncio.create_task(town.here.execute(request(pay)))
        await until(lambda: under_way(town.here))
        before = town.here.time.durable_position
        clearing = town.reconciliations[HERE].clearing
        promise = asyncio.create_task(clearing.promise(town.here.time.hlc.last))
        await asyncio.wait([promise], timeout=0.2)
        assert not promise.done()
        gate.set()
        assert await promise > before
        await paying


async def test_a_user_who_has_moved_leaves_both_books_right(played: Played) -> None:
    """Money through clearing, barriers and references carried along, answers from another cell's log: none is wrong."""
    async with serving(played.dsns) as town:
        town.directory.homes |= {played.ann: HERE, played.ben: HERE, played.carl: THERE}
        await town.there.execute(asked(BeginMove(user_id=played.carl, to_cell=HERE, region=None), played.carl))
        await town.quiet()
        assert (await town.here.account(played.carl)).state.home_epoch == 2
        for cell in (HERE, THERE):
            found = await town.reconciliations[cell].reconcile(Order(full=True))
            assert found.findings == []
    await check_all(played.dsns)
