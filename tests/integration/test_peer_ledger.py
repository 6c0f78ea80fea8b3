"""The PL/pgSQL ledger that `make bench-peers` puts beside Cellbook: what is measured there has to be right."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import uuid4

import asyncpg
import pytest

from server.shell.postgres.embedded import EmbeddedPostgres
from tests.bench.peers.plpgsql import PlpgsqlLedger, id_of, nothing
from tests.bench.peers.work import ACCEPTED, FUNDS_MINOR, REUSED, Bid, Size, Worker, WorkFailed, command_id
from tests.integration.database import ask

SIZE = Size(users=20, auctions=4)


@pytest.fixture
async def ledger(cluster: EmbeddedPostgres) -> AsyncIterator[PlpgsqlLedger]:
    name = f"peer_{uuid4().hex}"
    await cluster.ensure_database(name)
    async with asyncpg.create_pool(cluster.dsn(name), min_size=1, max_size=8, reset=nothing) as pool:
        made = PlpgsqlLedger(pool)
        await made.found(SIZE)
        yield made
    await ask(cluster.dsn("postgres"), f'DROP DATABASE "{name}" WITH (FORCE)')


def bid(bidder: int, amount_minor: int, auction: int = 0) -> Bid:
    return Bid(command_id(), auction, bidder, amount_minor)


async def account(ledger: PlpgsqlLedger, number: int) -> tuple[int, int]:
    query = "SELECT available_minor, reserved_minor FROM accounts WHERE user_id = $1"
    return tuple((await ledger.pool.fetch(query, id_of(number)))[0])


async def test_an_outbid_hold_is_released(ledger: PlpgsqlLedger) -> None:
    """The leader's money is reserved; a raise takes the difference; who is outbid has all of it back."""
    assert await ledger.place([bid(0, 100)]) == [ACCEPTED]
    assert await ledger.place([bid(0, 150)]) == [ACCEPTED]
    assert await account(ledger, 0) == (FUNDS_MINOR - 150, 150)
    assert await ledger.place([bid(1, 200)]) == [ACCEPTED]
    assert await account(ledger, 0) == (FUNDS_MINOR, 0)
    assert await account(ledger, 1) == (FUNDS_MINOR - 200, 200)


async def test_refusals_change_nothing(ledger: PlpgsqlLedger) -> None:
    """Each has its name, is stored, and is the answer to the same command ever after."""
    await ledger.pool.execute("UPDATE auctions SET end_time = now() WHERE auction_id = $1", id_of(3))
    await ledger.place([bid(0, 100)])
    before = await ledger.totals()
    refused = {
        bid(1, 100): "BID_TOO_LOW",
        bid(1, FUNDS_MINOR + 1): "INSUFFICIENT_FUNDS",
        bid(1, 100, auction=3): "AUCTION_NOT_ACTIVE",
        bid(1, 100, auction=99): "AUCTION_NOT_FOUND",
        bid(99, 200): "USER_NOT_FOUND",
    }
    for each, name in refused.items():
        assert await ledger.place([each]) == [name]
        assert await ledger.place([each]) == [name]
    assert await ledger.place(list(refused)) == list(refused.values())
    assert await ledger.totals() == before


async def test_a_batch_is_decided_in_order(ledger: PlpgsqlLedger) -> None:
    """Each of its bids has an outcome, and a repeated one has that of the first."""
    first = bid(0, 100)
    outcomes = await ledger.place([first, bid(1, 100), bid(1, 101), first, replace(first, amount_minor=500)])
    assert outcomes == [ACCEPTED, "BID_TOO_LOW", ACCEPTED, ACCEPTED, REUSED]
    assert await account(ledger, 0) == (FUNDS_MINOR, 0)


async def test_a_command_at_the_same_moment_twice_has_one_effect(ledger: PlpgsqlLedger) -> None:
    """All answers say that it was accepted; one was."""
    for amount_minor in range(1, 21):
        once = bid(amount_minor % 2, amount_minor)
        assert await asyncio.gather(*(ledger.place([once]) for _ in range(8))) == [[ACCEPTED]] * 8
    totals = await ledger.totals()
    assert (totals.accepted, totals.reserved_minor, totals.wrong_holds) == (20, 20, 0)


async def test_bids_and_batches_that_cross_do_not_deadlock(ledger: PlpgsqlLedger) -> None:
    """Whatever the order in which they name auctions and bidders: locks are taken in one order."""
    crossing = [[bid(user, 1_000 * user + auction + 1, auction) for auction in range(3)] for user in range(8)]
    batches = [batch[:: 1 if number % 2 else -1] for number, batch in enumerate(crossing)]
    await asyncio.gather(
        *(ledger.place(batch) for batch in batches), *(ledger.place([bid(9, 9_000)]) for _ in range(8))
    )
    totals = await ledger.totals()
    assert totals.reserved_minor == totals.highest_minor
    assert totals.wrong_holds == 0


@pytest.mark.parametrize("items", [1, 25])
async def test_the_measured_work_is_right(ledger: PlpgsqlLedger, items: int) -> None:
    """After a short measurement, as after a long one."""
    worker = Worker(ledger, SIZE)
    assert await worker.run(clients=4, items=items, seconds=0.3) > 0
    await worker.check()


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ("UPDATE accounts SET available_minor = available_minor - 1 WHERE reserved_minor > 0", "not conserved"),
        ("UPDATE auctions SET highest_minor = highest_minor + 1", "holds are wrong"),
        (
            "UPDATE accounts SET available_minor = available_minor + reserved_minor, reserved_minor = 0",
            "holds are wrong",
        ),
        ("DELETE FROM entries", "holds are wrong"),
        ("DELETE FROM bids", "were accepted"),
    ],
)
async def test_the_check_finds_what_is_wrong(ledger: PlpgsqlLedger, broken: str, problem: str) -> None:
    """Of money, holds, entries and bids."""
    worker = Worker(ledger, SIZE)
    await worker.run(clients=4, items=5, seconds=0.1)
    await ledger.pool.execute(broken)
    totals = await ledger.totals()
    with pytest.raises(WorkFailed, match=problem):
        worker.balanced(totals)


async def test_without_the_stored_commands_a_repeated_bid_is_noticed(ledger: PlpgsqlLedger) -> None:
    """The check of repeated bids bites where commands are forgotten."""
    await ledger.pool.execute("""
        CREATE OR REPLACE FUNCTION place_bid(command uuid, auction uuid, bidder uuid, amount bigint) RETURNS text
        LANGUAGE sql AS 'SELECT decided_bid(command, auction, bidder, amount)'
    """)
    with pytest.raises(WorkFailed, match=r"not accepted: {.BID_TOO_LOW.}"):
        await Worker(ledger, SIZE).check()
