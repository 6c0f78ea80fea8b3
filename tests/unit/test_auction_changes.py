"""What watchers are told is the same whether or not bids in between were read."""

import random

import pytest

from cells.domain.auction.auction import Auction
from cells.domain.audit.refusals import EventDamaged
from cells.domain.commands import CloseAuction, PlaceBid
from cells.domain.evolve import evolve
from cells.domain.refusals import Unavailable
from cells.domain.values import Money
from cells.encoding import codec
from cells.store.ports import EventRow
from cells.watch.changes import Gathering
from tests.local_cells import memory_cell, open_auction, open_user, request, until

BIDS = 40


async def played() -> list[EventRow]:
    """The events of an auction, from its first to its settlement: bidders raise their own bids, too."""
    chance = random.Random(7)
    async with memory_cell() as (cell, store):
        auction_id = await open_auction(cell, await open_user(cell))
        bidders = [await open_user(cell, 1_000_000) for _ in range(3)]
        for number in range(BIDS):
            amount = Money("USD", 100 + number)
            bid = PlaceBid(
                auction_id=auction_id, auction_cell=cell.name, bidder_id=chance.choice(bidders), amount=amount
            )
            await cell.execute(request(bid))
        await cell.execute(request(CloseAuction(auction_id=auction_id, by_command=True)))
        await until(lambda: any(row.event_type == "AUCTION_SETTLED" for row in store.log))
        return [row for row in store.log if row.aggregate_id == auction_id]


def gathering(rows: list[EventRow], changes_max: int) -> Gathering:
    return Gathering(
        cell="us-east",
        auction_id=rows[0].aggregate_id,
        auction=None,
        stream_version=0,
        position=0,
        changes_max=changes_max,
    )


async def test_bids_that_are_only_counted_change_nothing_else() -> None:
    """Wherever updates are made: each has the newest changes, and the auction as all its events make it."""
    rows = await played()
    every = gathering(rows, len(rows))
    for row in rows:
        every.add(row)
    all_changes = every.take().changes
    assert [change.stream_version for change in all_changes] == list(range(1, len(rows) + 1))
    for seed in range(200):
        chance = random.Random(seed)
        some, after, auction = gathering(rows, chance.randrange(1, 8)), 0, None
        for row in rows:
            some.add(row)
            auction = evolve(auction, codec.event_of(row), row.event_id)
            assert len(some._rows) <= some.changes_max + 1
            if chance.random() < 0.1:
                assert some.present().auction == auction
            if chance.random() < 0.1 or row is rows[-1]:
                update = some.take()
                assert isinstance(auction, Auction)
                assert (update.auction, update.stream_version) == (auction, row.stream_version)
                assert update.changes == all_changes[after : row.stream_version][-some.changes_max :]
                assert update.left_out == row.stream_version - after - len(update.changes)
                later = chance.randrange(after, row.stream_version + 1)
                assert update.since(later).changes == all_changes[later : row.stream_version][-some.changes_max :]
                after = row.stream_version


async def test_an_event_that_does_not_follow_is_not_taken() -> None:
    """One is missing, or comes twice, or cannot be read."""
    rows = await played()
    some = gathering(rows, 3)
    some.add(rows[0])
    for wrong in (rows[0], rows[2]):
        with pytest.raises(Unavailable):
            some.add(wrong)
    some.add(rows[1]._replace(payload='{"bid_id":7}'))
    with pytest.raises(EventDamaged) as refused:
        some.take()
    assert refused.value.facts["event_id"] == str(rows[1].event_id)
