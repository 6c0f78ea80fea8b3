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


async def open_auctions(cell: Cell, ends_in_ms: int, *, count: int = AUCTIONS) -> tuple[list[UUID], int]:
    """Auctions that end at the same moment, so long after the last asset is there, and this moment."""
    seller = await open_user(cell)
    asset = RegisterAsset(owner_id=seller, owner_cell=cell.name, description="a lamp")
    assets = await asyncio.gather(*(cell.execute(request(asset)) for _ in range(count)))
    end_time_ms = cell.time.clock.wall_ms() + ends_in_ms
    auctions = [
        CreateAuction(
            asset_id=registered.result.asset_id,
            seller_id=seller,
            opening=Money("USD", 100),
            increment_minor=1,
            end_time_ms=end_time_ms,
            extension_ms=0,
            settlement_timeout_ms=None,
        )
        for registered in assets
    ]
    outcomes = await asyncio.gather(*(cell.execute(request(auction)) for auction in auctions))
    return [outcome.result.auction_id for outcome in outcomes], end_time_ms


async def commits_to_close() -> int:
    """How many commits it takes until many auctions that end at the same moment are closed."""
    async with memory_cell() as (cell, store):
        auctions, end_time_ms = await open_auctions(cell, 1_000)
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
