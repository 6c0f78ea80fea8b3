"""What falls due by itself is asked for in time, however much falls due at once."""

import asyncio
from uuid import UUID

import pytest

from cells.cell import Cell
from cells.domain.auction.auction import AuctionState
from cells.domain.commands import CreateAuction, RegisterAsset
from cells.domain.values import Money
from tests.local_cells import memory_cell, open_user, request, until

AUCTIONS = 100


async def open_auctions(cell: Cell, end_time_ms: int, *, count: int = AUCTIONS) -> list[UUID]:
    seller = await open_user(cell)

    async def one() -> UUID:
        asset = await cell.execute(request(RegisterAsset(owner_id=seller, owner_cell=cell.name, description="a lamp")))
        auction = CreateAuction(
            asset_id=UUID(asset.result["asset_id"]),
            seller_id=seller,
            opening=Money("USD", 100),
            increment_minor=1,
            end_time_ms=end_time_ms,
            extension_ms=0,
            settlement_timeout_ms=None,
        )
        return UUID((await cell.execute(request(auction))).result["auction_id"])

    return list(await asyncio.gather(*(one() for _ in range(count))))


async def commits_to_close() -> int:
    """How many commits it takes until many auctions that end at the same moment are closed."""
    async with memory_cell() as (cell, store):
        end_time_ms = cell.time.clock.wall_ms() + 1_000
        auctions = await open_auctions(cell, end_time_ms)
        await until(lambda: cell.time.clock.wall_ms() >= end_time_ms - 50)
        before = store.appends
        await until(lambda: sum(row.event_type == "AUCTION_CLOSED" for row in store.log) == AUCTIONS)
        commits = store.appends - before
        assert (await cell.auction(auctions[-1])).state.state is AuctionState.UNSOLD
        return commits


async def test_auctions_that_end_together_are_closed_together() -> None:
    """They share commits: the last one does not wait for all the others."""
    assert await commits_to_close() < AUCTIONS / 4


async def test_one_at_a_time_the_last_would_wait_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablation: asked for one after the other, each takes a commit of its own."""
    monkeypatch.setattr("cells.writer.timers.AT_ONCE_MAX", 1)
    assert await commits_to_close() >= AUCTIONS
